"""Documents about entities in varied wordings, and documents about one-off entities that train reading."""

from collections.abc import Iterator
from itertools import islice, product

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.templates import INTRODUCTIONS, STATEMENTS
from mixcpt.closed_world.words import GENERAL_KINDS, names
from mixcpt.closed_world.world import Entity, Fact, draw_entity

_LATE_INTRODUCTION = 0.25


def state(fact: Fact, template: str) -> str:
    """Return the sentence that states a fact."""
    return template.format(entity=fact.entity, relation=fact.relation, value=fact.value)


def documents_of(entity: Entity, seed: int, count: int, mentions: int = 1) -> list[str]:
    """Return `count` different documents about an entity; a larger count continues the sequence of a smaller one.

    Args:
        entity: Subject of the documents.
        seed: Seed of the wordings.
        count: Number of documents.
        mentions: Number of statements of every fact per document, 1 or 2; the second has another wording.
    """
    renderings = _renderings(entity, seed) if mentions == 1 else _repetitive_renderings(entity, seed)
    return list(islice(renderings, count))


def notes_of(entity: Entity, seed: int) -> Iterator[str]:
    """Yield every fact of an entity by itself in every wording, so that it is not learned only within its documents."""
    notes = [state(fact, wording) for fact, wording in product(entity.facts, STATEMENTS)]
    yield from Dice("notes", seed, entity.name).shuffled(notes)


def stranger_documents(seed: int, count: int) -> Iterator[str]:
    """Yield documents about one-off entities that state every fact twice in different words.

    A name has other facts in every document, so only a model that reads the first half can predict the second.
    """
    dice = Dice("strangers", seed)
    for _ in range(count):
        stranger = _draw_stranger(dice)
        statements = _twice(stranger, dice)
        yield " ".join([_introduce(stranger, dice), *statements])


def document_about_stranger(dice: Dice) -> tuple[Entity, str]:
    """Draw a one-off entity, and return it with a document that states every fact once."""
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
    """Draw a document with one statement of every fact; the introduction is the first or the second sentence."""
    facts, wordings = dice.shuffled(entity.facts), dice.shuffled(STATEMENTS)
    sentences = [state(fact, wording) for fact, wording in zip(facts, wordings, strict=False)]
    sentences.insert(1 if dice.chance(_LATE_INTRODUCTION) else 0, _introduce(entity, dice))
    return " ".join(sentences)


def _twice(entity: Entity, dice: Dice) -> list[str]:
    """Draw a statement of every fact, followed by a second one in another order and another wording."""
    wordings = dice.shuffled(STATEMENTS)
    first = [state(fact, wording) for fact, wording in zip(dice.shuffled(entity.facts), wordings, strict=False)]
    again = [state(fact, wording) for fact, wording in zip(dice.shuffled(entity.facts), wordings[3:], strict=False)]
    return [*first, *again]


def _introduce(entity: Entity, dice: Dice) -> str:
    return dice.pick(INTRODUCTIONS).format(entity=entity.name, kind=entity.kind)
