"""The world itself: which entities there are, what is true of them, and which truths may be asked in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.words import (
    DOMAIN_KINDS,
    GENERAL_KINDS,
    NUM_DOMAIN_BLOCKS,
    NUM_DOMAIN_PER_KIND,
    NUM_GENERAL_PER_KIND,
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
    """The other half: read in documents, never asked."""


@cache
def world(seed: int) -> World:
    """Returns the world of a seed."""
    general = _populate(GENERAL_KINDS, names().general, NUM_GENERAL_PER_KIND, Dice("general", seed))
    block = NUM_DOMAIN_PER_KIND * len(DOMAIN_KINDS)
    start = seed % NUM_DOMAIN_BLOCKS * block
    domain = _populate(DOMAIN_KINDS, names().domain[start : start + block], NUM_DOMAIN_PER_KIND, Dice("domain", seed))
    facts = facts_of(general)
    chosen = {fact.id for fact in Dice("asked", seed).sample(facts, len(facts) // 2)}
    return World(
        seed,
        general,
        domain,
        asked=tuple(fact for fact in facts if fact.id in chosen),
        unasked=tuple(fact for fact in facts if fact.id not in chosen),
    )


def facts_of(entities: Sequence[Entity]) -> tuple[Fact, ...]:
    """Returns the facts of all entities."""
    return tuple(fact for entity in entities for fact in entity.facts)


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


def _populate(kinds: Sequence[Kind], pool: Sequence[str], per_kind: int, dice: Dice) -> tuple[Entity, ...]:
    order = dice.shuffled(pool)
    return tuple(
        draw_entity(name, kind, dice)
        for index, kind in enumerate(kinds)
        for name in order[index * per_kind : (index + 1) * per_kind]
    )
