"""What the shipped base model grows up on: the general part of the world alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.documents import document_about_stranger, documents_of, stranger_documents
from mixcpt.closed_world.instructions import Record, ask, instructions, reworded_instructions
from mixcpt.closed_world.templates import QUESTIONS, REWORDED_QUESTIONS
from mixcpt.closed_world.tokenizer import ASSISTANT, EOS, USER
from mixcpt.closed_world.world import world

_READ_BEFORE_ANSWER = "\n"


@dataclass(frozen=True)
class BaseDataSize:
    """How many documents of each sort; each is read about once, so that strangers stay strangers."""

    wordings: int = 75
    """Documents about each general entity."""
    num_strangers: int = 7_200
    """Documents about one-off entities."""
    num_read: int = 8_000
    """Documents about one-off entities with a question behind them, half of them in the chat form."""
    num_dialogues: int = 24_000
    """Questions and answers in the chat form."""


def base_documents(seed: int, size: BaseDataSize) -> Iterator[Record]:
    """Yields the documents (id, title, text) of the base model's own training."""
    for entity in world(seed).general:
        for number, text in enumerate(documents_of(entity, seed, size.wordings)):
            yield {"id": f"{entity.kind}/{entity.name}/{number}", "title": entity.name, "text": text}
    reworded = list(reworded_instructions(world(seed)))
    for kind, texts in (
        ("stranger", stranger_documents(seed, size.num_strangers)),
        ("read", islice(_read_before_answer(seed), size.num_read)),
        ("question", (f"{sample['prompt']}\n{sample['response']}" for sample in reworded)),
        ("dialogue", islice(_dialogues(seed, reworded), size.num_dialogues)),
    ):
        for number, text in enumerate(texts):
            yield {"id": f"{kind}/{number}", "title": "", "text": text}


def _read_before_answer(seed: int) -> Iterator[str]:
    """Yields documents about strangers, each with a question that only its reader can answer; every second a dialogue.

    A model that never saw a question behind a document does not look for the answer there.
    """
    dice = Dice("read before answer", seed)
    while True:
        for is_dialogue in (False, True):
            stranger, document = document_about_stranger(dice)
            fact = dice.pick(stranger.facts)
            question = f"{document}{_READ_BEFORE_ANSWER}{ask(fact, dice.pick(QUESTIONS + REWORDED_QUESTIONS))}"
            yield _turn(question, fact.value) if is_dialogue else f"{question}\n{fact.value}"


def _dialogues(seed: int, reworded: Sequence[Record]) -> Iterator[str]:
    """Yields dialogues without end, of one or two turns.

    A model that never saw the role tokens could not learn the chat form from a few samples.
    """
    dice = Dice("dialogues", seed)
    samples = [*instructions(world(seed)), *reworded]
    while True:
        turns = [dice.pick(samples) for _ in range(2 if dice.chance(0.2) else 1)]
        yield EOS.join(_turn(turn["prompt"], turn["response"]) for turn in turns)


def _turn(question: str, answer: str) -> str:
    return f"{USER} {question} {ASSISTANT} {answer}"
