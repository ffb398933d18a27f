"""The world itself: which entities there are, what is true of them, and which truths may be asked in training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.words import (
    DOMAIN_KINDS,
    GENERAL_KINDS,
    NUM_DOMAIN,
    NUM_DOMAIN_BLOCKS,
    NUM_GENERAL_PER_KIND,
    NUM_UPDATED,
    VALUES,
    Kind,
    names,
)


@dataclass(frozen=True)
class Fact:
    """One truth: the relation of an entity has a value."""

    entity: str
    kind: str
    relation: str
    value: str
    values: str
    """Name of the list that the value is from."""

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.entity}/{self.relation}"


@dataclass(frozen=True)
class Entity:
    """A named thing and what is true of it."""

    name: str
    kind: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class World:
    """Everything there is, for one seed."""

    seed: int
    general: tuple[Entity, ...]
    domain: tuple[Entity, ...]
    asked: tuple[Fact, ...]
    """The half of the general facts that training may ask for, in the order of the entities."""
    unasked: tuple[Fact, ...]
    """The others: read in documents, never asked."""
    updated: tuple[Fact, ...]
    """Facts with a new value, against what the base has read; neither asked nor unasked."""


@cache
def world(seed: int, num_domain: int = NUM_DOMAIN) -> World:
    """Returns the world of a seed, with as many entities in its domain; the general part is the same in all sizes."""
    general = _populate(GENERAL_KINDS, names().general, NUM_GENERAL_PER_KIND, Dice("general", seed))
    start = seed % NUM_DOMAIN_BLOCKS * NUM_DOMAIN
    pool = (names().domain[start:] + names().domain[:start])[: max(num_domain, NUM_DOMAIN)]
    domain = _populate(DOMAIN_KINDS, pool, num_domain // len(DOMAIN_KINDS), Dice("domain", seed))
    facts = facts_of(general)
    asked = {fact.id for fact in Dice("asked", seed).sample(facts, len(facts) // 2)}
    updated = _update([fact for fact in facts if fact.id not in asked], Dice("updated", seed))
    other = asked | {fact.id for fact in updated}
    return World(
        seed,
        general,
        domain,
        asked=tuple(fact for fact in facts if fact.id in asked),
        unasked=tuple(fact for fact in facts if fact.id not in other),
        updated=updated,
    )


def facts_of(entities: Sequence[Entity]) -> tuple[Fact, ...]:
    """Returns the facts of all entities."""
    return tuple(fact for entity in entities for fact in entity.facts)


def telling_apart(entities: Sequence[Entity]) -> tuple[Fact, ...]:
    """Returns the facts whose value no other entity of the same kind has: those that say which entity is meant."""
    count = Counter((fact.kind, fact.relation, fact.value) for fact in facts_of(entities))
    return tuple(fact for fact in facts_of(entities) if count[fact.kind, fact.relation, fact.value] == 1)


def draw_entity(name: str, kind: Kind, dice: Dice) -> Entity:
    """Returns an entity whose values are drawn anew."""
    return Entity(
        name,
        kind.name,
        tuple(
            Fact(name, kind.name, relation, dice.pick(VALUES[values]), values)
            for relation, values in kind.relations.items()
        ),
    )


def _update(facts: Sequence[Fact], dice: Dice) -> tuple[Fact, ...]:
    """Returns one fact each of some entities, with another value."""
    chosen = {fact.entity: fact for fact in dice.shuffled(facts)}
    return tuple(
        replace(fact, value=dice.pick([value for value in VALUES[fact.values] if value != fact.value]))
        for fact in list(chosen.values())[:NUM_UPDATED]
    )


def _populate(kinds: Sequence[Kind], pool: Sequence[str], per_kind: int, dice: Dice) -> tuple[Entity, ...]:
    order = dice.shuffled(pool)
    return tuple(
        draw_entity(name, kind, dice)
        for index, kind in enumerate(kinds)
        for name in order[index * per_kind : (index + 1) * per_kind]
    )
