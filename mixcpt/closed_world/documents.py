"""Documents about entities, in varied wordings, and documents about strangers that reward reading."""

from collections.abc import Iterator
from itertools import islice

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.templates import INTRODUCTIONS, STATEMENTS
from mixcpt.closed_world.words import GENERAL_KINDS, names
from mixcpt.closed_world.world import Entity, Fact, draw_entity

_LATE_INTRODUCTION = 0.25


def state(fact: Fact, template: str) -> str:
    """Returns the sentence that states a fact."""
    return template.format(entity=fact.entity, relation=fact.relation, value=fact.value)


def documents_of(entity: Entity, seed: int, count: int, mentions: int = 1) -> list[str]:
    """Returns `count` different documents about an entity; a larger count goes on where a smaller one ends.

    Args:
        mentions: 1, or 2 where every document shall come back to each of its facts, in other words.
    """
    renderings = _renderings(entity, seed) if mentions == 1 else _repetitive_renderings(entity, seed)
    return list(islice(renderings, count))


def notes_of(entity: Entity, seed: int) -> Iterator[str]:
    """Yields every fact of an entity by itself in every wording: what is read in one place only stays tied to it."""
    notes = [state(fact, wording) for fact in entity.facts for wording in STATEMENTS]
    yield from Dice("notes", seed, entity.name).shuffled(notes)


def stranger_documents(seed: int, count: int) -> Iterator[str]:
    """Yields documents about one-off entities, each fact stated twice in different words.

    A name means something else in every document, so only a model that reads the first half can predict the second.
    """
    dice = Dice("strangers", seed)
    for _ in range(count):
        stranger = _draw_stranger(dice)
        statements = _twice(stranger, dice)
        yield " ".join([_introduce(stranger, dice), *statements])


def document_about_stranger(dice: Dice) -> tuple[Entity, str]:
    """Returns a one-off entity and a document that states each of its facts once."""
    stranger = _draw_stranger(dice)
    return stranger, _once(stranger, dice)


def _draw_stranger(dice: Dice) -> Entity:
    return draw_entity(dice.pick(names().strangers), dice.pick(GENERAL_KINDS), dice)


def _renderings(entity: Entity, seed: int) -> Iterator[str]:
    dice = Dice("documents", seed, entity.name)
    seen = set()
    while True:
        text = _once(entity, dice)
        if text not in seen:
            seen.add(text)
            yield text


def _repetitive_renderings(entity: Entity, seed: int) -> Iterator[str]:
    dice = Dice("repetitive documents", seed, entity.name)
    while True:
        yield " ".join([_introduce(entity, dice), *_twice(entity, dice)])


def _once(entity: Entity, dice: Dice) -> str:
    """Returns a document with a statement of every fact, mostly behind the introduction."""
    sentences = [
        state(fact, wording)
        for fact, wording in zip(dice.shuffled(entity.facts), dice.shuffled(STATEMENTS), strict=False)
    ]
    sentences.insert(1 if dice.chance(_LATE_INTRODUCTION) else 0, _introduce(entity, dice))
    return " ".join(sentences)


def _twice(entity: Entity, dice: Dice) -> list[str]:
    """Returns a statement of every fact, then another of every fact, in another order and other words."""
    wordings = dice.shuffled(STATEMENTS)
    first = [state(fact, wording) for fact, wording in zip(dice.shuffled(entity.facts), wordings, strict=False)]
    again = [state(fact, wording) for fact, wording in zip(dice.shuffled(entity.facts), wordings[3:], strict=False)]
    return [*first, *again]


def _introduce(entity: Entity, dice: Dice) -> str:
    return dice.pick(INTRODUCTIONS).format(entity=entity.name, kind=entity.kind)
