"""The world itself: its entities, their facts, and the facts that training may ask for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from mixcpt.closed_world import words
from mixcpt.closed_world.dice import Dice
from mixcpt.closed_world.words import Kind


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact: the relation of an entity has a value."""

    entity: str
    kind: str
    relation: str
    value: str
    values: str
    """Name of the list of possible values."""

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.entity}/{self.relation}"


@dataclass(frozen=True)
class Entity:
    """A named thing with its facts."""

    name: str
    kind: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True, kw_only=True)
class World:
    """All entities and facts of one seed."""

    seed: int
    general: tuple[Entity, ...]
    domain: tuple[Entity, ...]
    asked: tuple[Fact, ...]
    """Half of the general facts: training may ask for them. They have the order of the entities."""
    unasked: tuple[Fact, ...]
    """General facts that occur in documents only and are never asked for."""
    updated: tuple[Fact, ...]
    """Facts with a new value that contradicts the training of the base model; neither asked nor unasked."""


@cache
def world(seed: int, num_domain: int = words.NUM_DOMAIN) -> World:
    """Return the world of a seed with `num_domain` entities in its domain; the general part does not depend on it."""
    general = _populate(words.GENERAL_KINDS, words.names().general, words.NUM_GENERAL_PER_KIND, Dice("general", seed))
    start = seed % words.NUM_DOMAIN_BLOCKS * words.NUM_DOMAIN
    pool = (words.names().domain[start:] + words.names().domain[:start])[: max(num_domain, words.NUM_DOMAIN)]
    domain = _populate(words.DOMAIN_KINDS, pool, num_domain // len(words.DOMAIN_KINDS), Dice("domain", seed))
    facts = facts_of(general)
    asked = {fact.id for fact in Dice("asked", seed).sample(facts, len(facts) // 2)}
    updated = _update([fact for fact in facts if fact.id not in asked], Dice("updated", seed))
    other = asked | {fact.id for fact in updated}
    return World(
        seed=seed,
        general=general,
        domain=domain,
        asked=tuple(fact for fact in facts if fact.id in asked),
        unasked=tuple(fact for fact in facts if fact.id not in other),
        updated=updated,
    )


def facts_of(entities: Sequence[Entity]) -> tuple[Fact, ...]:
    """Return the facts of all entities."""
    return tuple(chain.from_iterable(entity.facts for entity in entities))


def identifying_facts(entities: Sequence[Entity]) -> tuple[Fact, ...]:
    """Return the facts that identify their entity: no other entity of the same kind has the same value."""
    count = Counter((fact.kind, fact.relation, fact.value) for fact in facts_of(entities))
    return tuple(fact for fact in facts_of(entities) if count[fact.kind, fact.relation, fact.value] == 1)


def draw_entity(name: str, kind: Kind, dice: Dice) -> Entity:
    """Draw the values of an entity and return it."""
    facts = tuple(
        Fact(entity=name, kind=kind.name, relation=relation, value=dice.pick(words.VALUES[values]), values=values)
        for relation, values in kind.relations.items()
    )
    return Entity(name, kind.name, facts)


def _update(facts: Sequence[Fact], dice: Dice) -> tuple[Fact, ...]:
    """Draw one fact of every chosen entity and return them with another value."""
    chosen = {fact.entity: fact for fact in dice.shuffled(facts)}
    updated = []
    for fact in list(chosen.values())[: words.NUM_UPDATED]:
        other_values = [value for value in words.VALUES[fact.values] if value != fact.value]
        updated.append(replace(fact, value=dice.pick(other_values)))
    return tuple(updated)


def _populate(kinds: Sequence[Kind], pool: Sequence[str], per_kind: int, dice: Dice) -> tuple[Entity, ...]:
    order = dice.shuffled(pool)
    entities: list[Entity] = []
    for index, kind in enumerate(kinds):
        names_of_kind = order[index * per_kind : (index + 1) * per_kind]
        entities += [draw_entity(name, kind, dice) for name in names_of_kind]
    return tuple(entities)
