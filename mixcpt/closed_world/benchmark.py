"""The closed world as files, for whoever wants to teach it to a model with other tools and ask the same questions."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from mixcpt.closed_world.items import items
from mixcpt.closed_world.records import records
from mixcpt.config import ClosedWorldSource, ClosedWorldTask, WorldForm

_ABOUT = ("domain", "general_asked", "general_unasked", "updated")
_IMPOSSIBLE = {("updated", "reverse"), ("updated", "memory")}


def write_benchmark(folder: Path, source: ClosedWorldSource) -> dict[str, int]:
    """Returns the number of records by file, after writing documents, instructions, preferences and questions as jsonl.

    `questions-<about>.jsonl` has a line for every fact and every form: id, fact, form, passage, question, answer.

    Args:
        folder: Where the files go; it is made if need be.
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
    written = {
        f"{name}.jsonl": _write(folder / f"{name}.jsonl", records(source.model_copy(update=changes)))
        for name, changes in pools.items()
    }
    return written | {
        f"questions-{about}.jsonl": _write(folder / f"questions-{about}.jsonl", _questions(source, about))
        for about in _ABOUT
    }


def _questions(source: ClosedWorldSource, about: str) -> Iterable[Mapping[str, str]]:
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
