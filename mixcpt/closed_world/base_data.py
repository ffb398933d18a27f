"""What the shipped base model grows up on: the general part of the world alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.documents import documents_of, stranger_documents
from mixcpt.closed_world.instructions import Record, instructions
from mixcpt.closed_world.tokenizer import ASSISTANT, EOS, USER
from mixcpt.closed_world.world import world


@dataclass(frozen=True)
class BaseDataSize:
    """How many documents of each sort; each is read about once, so that strangers stay strangers."""

    wordings: int = 75
    """Documents about each general entity."""
    num_strangers: int = 7_200
    """Documents about one-off entities."""
    num_dialogues: int = 24_000
    """Questions and answers in the chat form."""


def base_documents(seed: int, size: BaseDataSize) -> Iterator[Record]:
    """Yields the documents (id, title, text) of the base model's own training."""
    for entity in world(seed).general:
        for number, text in enumerate(documents_of(entity, seed, size.wordings)):
            yield {"id": f"{entity.kind}/{entity.name}/{number}", "title": entity.name, "text": text}
    for number, text in enumerate(stranger_documents(seed, size.num_strangers)):
        yield {"id": f"stranger/{number}", "title": "", "text": text}
    for number, text in enumerate(islice(_dialogues(seed), size.num_dialogues)):
        yield {"id": f"dialogue/{number}", "title": "", "text": text}


def _dialogues(seed: int) -> Iterator[str]:
    """Yields dialogues without end, of one or two turns.

    A model that never saw the role tokens could not learn the chat form from a few samples.
    """
    dice = Dice("dialogues", seed)
    samples = list(instructions(world(seed)))
    while True:
        turns = [dice.pick(samples) for _ in range(2 if dice.chance(0.2) else 1)]
        yield EOS.join(f"{USER} {turn['prompt']} {ASSISTANT} {turn['response']}" for turn in turns)
