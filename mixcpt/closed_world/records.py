"""The records of the closed world, in the form of other sources, and as files for a benchmark of other tools."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from mixcpt.closed_world.documents import documents_of, notes_of
from mixcpt.closed_world.instructions import instructions, preferences
from mixcpt.closed_world.items import items
from mixcpt.closed_world.world import Entity, world
from mixcpt.config import ClosedWorldSource, ClosedWorldTask, WorldForm

_ABOUT = ("domain", "general_asked", "general_unasked", "updated")
_IMPOSSIBLE = {("updated", "reverse"), ("updated", "memory")}


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


def write_benchmark(folder: Path, source: ClosedWorldSource) -> dict[str, int]:
    """Write documents, instructions, preferences and questions as JSON lines, and return the number of records by file.

    `questions-<about>.jsonl` has a line for every fact and every form: id, fact, form, passage, question, answer.

    Args:
        folder: Folder of the files; created if it does not exist.
        source: Seed, size, wordings, mentions and notes of the documents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pools: dict[str, dict[str, Any]] = {
        "domain": {"pool": "domain", "about": "domain"},
        "updates": {"pool": "domain", "about": "updated"},
        "general": {"pool": "general"},
        "instructions": {"pool": "instructions"},
        "preferences": {"pool": "preferences"},
    }
    rows = {f"{name}.jsonl": records(source.model_copy(update=changes)) for name, changes in pools.items()}
    questions = {f"questions-{about}.jsonl": _questions(source, about) for about in _ABOUT}
    return {name: _write(folder / name, file_rows) for name, file_rows in {**rows, **questions}.items()}


def _questions(source: ClosedWorldSource, about: str) -> Iterable[Mapping[str, str]]:
    """Yield the questions about one part of the world, in all forms that are possible for it."""
    for form in get_args(WorldForm):
        if (about, form) in _IMPOSSIBLE:
            continue
        for item in items(ClosedWorldTask(about=about, form=form, seed=source.seed, entities=source.entities)):  # type: ignore[arg-type]
            yield {
                "id": item.id,
                "fact": item.fact_id,
                "form": form,
                "passage": f"{item.kind}/{item.entity}",
                "question": item.prompt,
                "answer": item.answer,
            }


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)
