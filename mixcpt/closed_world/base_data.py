"""The training data of the shipped base model: only the general part of the world."""

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
    """Number of documents per kind. Every document is read about once, so one-off entities remain unknown."""

    wordings: int = 75
    """Number of documents about every general entity."""
    num_strangers: int = 7_200
    """Number of documents about one-off entities."""
    num_read: int = 8_000
    """Number of documents about one-off entities that end with a question, half of them as dialogues."""
    num_dialogues: int = 24_000
    """Number of dialogues with questions and answers."""


def base_documents(seed: int, size: BaseDataSize) -> Iterator[Record]:
    """Yield the documents (id, title, text) of the training of the base model."""
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
    """Yield documents about one-off entities with a question about the document; every second one is a dialogue.

    A model that never saw a question after a document does not search the document for the answer.
    """
    dice = Dice("read before answer", seed)
    while True:
        for is_dialogue in (False, True):
            stranger, document = document_about_stranger(dice)
            fact = dice.pick(stranger.facts)
            question = f"{document}{_READ_BEFORE_ANSWER}{ask(fact, dice.pick(QUESTIONS + REWORDED_QUESTIONS))}"
            yield _turn(question, fact.value) if is_dialogue else f"{question}\n{fact.value}"


def _dialogues(seed: int, reworded: Sequence[Record]) -> Iterator[str]:
    """Yield an endless sequence of dialogues of one or two turns.

    A model that never saw the role tokens cannot learn the chat template from a few samples.
    """
    dice = Dice("dialogues", seed)
    samples = [*instructions(world(seed)), *reworded]
    while True:
        turns = [dice.pick(samples) for _ in range(2 if dice.chance(0.2) else 1)]
        yield EOS.join(_turn(turn["prompt"], turn["response"]) for turn in turns)


def _turn(question: str, answer: str) -> str:
    return f"{USER} {question} {ASSISTANT} {answer}"
