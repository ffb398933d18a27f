"""Reads the file of a task: questions with choices, or texts; an unusable record is kept with its reason."""

import re
from pathlib import Path

from mixcpt.config import SHIPPED_TEXT, BitsPerByteTask, MultipleChoiceTask
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.choices import read_choices
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.records import (
    BadRecord,
    RecordFault,
    format_of,
    item_id,
    nothing_usable,
    read_rows,
    read_text,
    text_field,
)

_SHIPPED_FILE = Path(__file__).parents[1] / "general_text" / "texts.jsonl"
_PASSAGE_CHARACTERS = 2000
"""Minimum length of the passages that a txt file is cut into: a single text would have no interval."""


def task_file(task: MultipleChoiceTask | BitsPerByteTask) -> Path:
    """Return the path of a task's file; `shipped` is the general text that comes with mixcpt."""
    if isinstance(task, BitsPerByteTask) and task.path == SHIPPED_TEXT:
        return _SHIPPED_FILE
    try:
        return Path(task.path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{task.path[:200]!r} is not a path: {error}", "check the path") from None


def read_file(task: MultipleChoiceTask | BitsPerByteTask, path: Path) -> tuple[list[Item], list[BadRecord]]:
    """Return the usable records of a task's file as items, and the rejected ones with their reasons.

    Questions are read from jsonl, json, csv or tsv, texts from jsonl or txt (cut into passages); each may be
    gzip-compressed.

    Raises:
        DataError: If the file cannot be read, is of another type, is empty, or has no usable record.
    """
    if isinstance(task, MultipleChoiceTask):
        return read_choices(task, path)
    if format_of(path) == ".txt":
        return _passages(path), []
    if format_of(path) != ".jsonl":
        raise DataError(f"{path} is not a file type of bits_per_byte (.jsonl or .txt; each may end in .gz)")
    return _texts(path)


def _texts(path: Path) -> tuple[list[Item], list[BadRecord]]:
    rows = read_rows(path)
    items: dict[str, Item] = {}
    rejected: list[BadRecord] = []
    for row in rows:
        try:
            if row.fault:
                raise row.fault
            identity = item_id(row.record, f"{path.name}:{row.line}")
            if identity in items:
                raise RecordFault("id", f"{identity!r} is the id of an earlier record")
            items[identity] = Item(id=identity, prompt=text_field(row.record, "text"))
        except RecordFault as fault:
            rejected.append(BadRecord(str(path), row.line, *fault.args))
    if not items:
        raise nothing_usable(path, rows, rejected)
    return list(items.values()), rejected


def _passages(path: Path) -> list[Item]:
    """Return the passages of a txt file, cut at blank lines."""
    text = read_text(path)
    passages = [""]
    for paragraph in re.split(r"\n[ \t]*\n\s*", "\n".join(text.strip().splitlines())):
        if len(passages[-1]) >= _PASSAGE_CHARACTERS:
            passages.append("")
        passages[-1] = f"{passages[-1]}\n\n{paragraph}".strip()
    if not passages[0]:
        raise DataError(f"{path} is empty", "give a file with text")
    return [Item(id=f"{path.name}#{number}", prompt=passage) for number, passage in enumerate(passages, start=1)]
