"""The raw records of the closed world, in the same form as the records of other sources."""

from collections.abc import Iterator, Sequence
from itertools import islice

from mixcpt.closed_world.documents import documents_of, notes_of
from mixcpt.closed_world.instructions import instructions, preferences
from mixcpt.closed_world.world import Entity, world
from mixcpt.config import ClosedWorldSource


def records(source: ClosedWorldSource) -> Iterator[dict[str, str]]:
    """Return the records of a source, with the default field names of its pool."""
    return islice(_all_records(source), source.limit or None)


def _all_records(source: ClosedWorldSource) -> Iterator[dict[str, str]]:
    this_world = world(source.seed, source.entities)
    match source.pool:
        case "domain" if source.about == "updated":
            return _documents([Entity(fact.entity, fact.kind, (fact,)) for fact in this_world.updated], source)
        case "domain":
            return _documents(this_world.domain, source)
        case "general":
            return _documents(this_world.general, source)
        case "instructions":
            return instructions(this_world)
        case "preferences":
            return preferences(this_world)


def _documents(entities: Sequence[Entity], source: ClosedWorldSource) -> Iterator[dict[str, str]]:
    for entity in entities:
        for number, text in enumerate(documents_of(entity, source.seed, source.wordings, source.mentions)):
            yield {"id": f"{entity.kind}/{entity.name}/{number}", "title": entity.name, "text": text}
        for number, text in enumerate(notes_of(entity, source.seed) if source.notes else ()):
            yield {"id": f"{entity.kind}/{entity.name}/note-{number}", "title": entity.name, "text": text}
