"""Reads jsonl files of questions and texts; what cannot be used is quarantined with its reason, never just dropped."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from mixcpt.errors import DataError

Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One thing that is asked of a model."""

    id: str
    prompt: str
    """The question; the beginning of a sentence; or the whole text whose bits are counted."""
    gold: str = ""
    """The right answer."""
    choices: tuple[str, ...] = ()
    """What may be answered, `gold` once among them; empty where the model answers in its own words."""
    passage: str = ""
    """What it is about: items of one passage are no independent evidence. Empty where it stands for itself."""
    fact: str = ""
    """What has to be known: items of several tasks may ask for one fact. Empty where it stands for itself."""

    @property
    def cluster(self) -> str:
        """Name of what the item is about, its own where it is about nothing else."""
        return self.passage or self.id


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be used, and why."""

    file: str
    line: int
    field: str
    reason: str


class RecordFault(ValueError):
    """What is wrong with a record; the reader turns it into a `BadRecord`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


Parse: TypeAlias = Callable[[Record, str], Item]
"""Makes an item of a record; the second argument is the item's name if the record has none."""


def read_items(path: Path, parse: Parse, *, max_lines: int = 0) -> tuple[list[Item], list[BadRecord]]:
    """Returns the usable records of a jsonl file as items, and the others with their reasons; 0 reads all lines.

    Raises:
        DataError: If the file cannot be read, is empty, or has no usable record.
    """
    items: dict[str, Item] = {}
    bad: list[BadRecord] = []
    for number, line in islice(_lines(path), max_lines or None):
        try:
            item = parse(_record(line), f"{path.name}:{number}")
            if item.id in items:
                raise RecordFault("id", f"{item.id!r} was given to an earlier record")
            items[item.id] = item
        except RecordFault as fault:
            bad.append(BadRecord(str(path), number, fault.field, fault.reason))
    if not items:
        raise _nothing_usable(path, bad)
    return list(items.values()), bad


def read_bytes(path: Path) -> bytes:
    """Returns what is in a file, unpacked where its name ends in .gz.

    Raises:
        DataError: If the file cannot be read or is no whole gzip file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "check the path; it is relative to the current folder"
        raise DataError(f"cannot read {path}: {error.strerror}", hint) from error
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}", "fetch or compress it again") from error


def text_field(record: Record, field: str) -> str:
    """Returns a field's text without white space around it; raises `RecordFault` where there is none."""
    if field not in record:
        raise RecordFault(field, f"is missing; the record has: {', '.join(record)}")
    return clean_text(record[field], field)


def clean_text(value: Any, field: str) -> str:
    """Returns a text without surrounding white space; raises `RecordFault` where it is empty or no proper text."""
    if not isinstance(value, str):
        raise RecordFault(field, f"is a {type(value).__name__} where a text was expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RecordFault(field, "holds half a character (a lone surrogate)") from None
    if not (text := value.strip()):
        raise RecordFault(field, "is empty")
    return text


def item_id(record: Record, fallback: str) -> str:
    """Returns the record's own id, or `fallback` where it has none."""
    identity = record.get("id")
    return str(identity) if isinstance(identity, str | int) and str(identity) else fallback


def own_id(doc_id: str, source: str) -> str:
    """Returns the id that a document's own record gave it: curation puts the source's name before it."""
    return doc_id.removeprefix(f"{source}/")


def passage_of(record: Record, field: str) -> str:
    """Returns the name of the passage that a record is about; empty where it names none."""
    name = record.get(field)
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank, numbered from 1."""
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:  # broken JSON and broken UTF-8 alike
        raise RecordFault("(line)", f"is no JSON: {error}") from None
    if not isinstance(record, dict):
        raise RecordFault("(line)", f"holds a {type(record).__name__} where an object was expected")
    return record


def _nothing_usable(path: Path, bad: list[BadRecord]) -> DataError:
    if not bad:
        return DataError(f"{path} is empty", "give a file with one JSON object a line")
    first = bad[0]
    example = f"line {first.line}, field {first.field}: {first.reason}"
    return DataError(
        f"{path}: none of {len(bad)} records can be used; the first, {example}",
        "name the right fields in the task's settings, or repair the file",
    )
