"""Reads files of questions and texts; an unusable record is quarantined with its reason, never just dropped."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from mixcpt.config import BitsPerByteTask
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef

Record: TypeAlias = Mapping[str, Any]

_PASSAGE_CHARACTERS = 2000
"""Minimum length of the passages that a txt file is cut into: a single text would have no interval."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question or text that a model is evaluated on."""

    id: str
    prompt: str
    """The question, the beginning of a sentence, or a whole text that is scored in bits per byte."""
    gold: str = ""
    """The correct answer."""
    choices: tuple[str, ...] = ()
    """All choices, with `gold` exactly once among them; empty if the model answers freely."""
    passage: str = ""
    """Name of the passage that the item is about, since such items are dependent; empty if the item is independent."""
    fact: str = ""
    """Name of the fact that the item asks for, shared by items of several tasks; empty if no other item asks for it."""

    @property
    def cluster(self) -> str:
        """Name of the passage; the item's own id if it is independent."""
        return self.passage or self.id


@dataclass(frozen=True)
class BadRecord:
    """An unusable record and the reason."""

    file: str
    line: int
    field: str
    reason: str


class RecordFault(ValueError):
    """A fault in a record, raised with field and reason; `read_items` turns it into a `BadRecord`."""


Parse: TypeAlias = Callable[[Record, str], Item]
"""Function that makes an item from a record; the second argument is the id for a record without one."""


def read_items(path: Path, parse: Parse, *, max_lines: int = 0) -> tuple[list[Item], list[BadRecord]]:
    """Return the usable records of a jsonl file as items, and the rejected ones with their reasons.

    Args:
        path: The file, may be gzip-compressed.
        parse: Raises `RecordFault` for an unusable record.
        max_lines: Maximum number of lines to read; 0 reads all.

    Raises:
        DataError: If the file cannot be read, is empty, or has no usable record.
    """
    items: dict[str, Item] = {}
    rejected: list[BadRecord] = []
    for number, line in islice(_lines(path), max_lines or None):
        try:
            item = parse(_record(line), f"{path.name}:{number}")
            if item.id in items:
                raise RecordFault("id", f"{item.id!r} is the id of an earlier record")
            items[item.id] = item
        except RecordFault as fault:
            rejected.append(BadRecord(str(path), number, *fault.args))
    if not items:
        raise _nothing_usable(path, rejected)
    return list(items.values()), rejected


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in .gz; raise `DataError` if it cannot be read."""
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
        raise DataError(f"{path} is not a complete gzip file: {error}", "download or compress it again") from error


def heldout_texts(task: BitsPerByteTask, corpus: ArtifactRef) -> list[Item]:
    """Return the held-out documents of the task's pool or source; raise `DataError` if there are none."""
    import pandas as pd

    documents = pd.read_parquet(corpus.file("heldout.parquet"), columns=["doc_id", "source", "pool", "text"])
    documents = documents[documents["pool"] == task.heldout_pool]
    if task.source:
        documents = documents[documents["source"] == task.source]
    if documents.empty:
        raise DataError(
            f"evaluation task {task.name}: no document of {task.source or f'the {task.heldout_pool} pool'} is held out",
            "raise curation.heldout_fraction, add documents to the pool, or remove the task",
        )
    rows = zip(documents["doc_id"], documents["text"], strict=True)
    return [Item(id=str(doc_id), prompt=text) for doc_id, text in rows]


def read_texts(path: Path, *, max_lines: int = 0) -> tuple[list[Item], list[BadRecord]]:
    """Return the texts of a jsonl file (field `text`) or the passages of a txt file, and the rejected records."""
    if is_jsonl(path):
        return read_items(path, _parse_text, max_lines=max_lines)
    return _passages(path), []


def is_jsonl(path: Path) -> bool:
    """Return whether a file name ends in .jsonl or .jsonl.gz."""
    return path.name.removesuffix(".gz").endswith(".jsonl")


def text_field(record: Record, field: str) -> str:
    """Return the text of a field without surrounding white space; raise `RecordFault` if there is none."""
    if field not in record:
        raise RecordFault(field, f"is missing; the record has: {', '.join(record)}")
    return clean_text(record[field], field)


def clean_text(value: Any, field: str) -> str:
    """Return a text without surrounding white space; raise `RecordFault` if it is empty or not valid text."""
    if not isinstance(value, str):
        raise RecordFault(field, f"is a {type(value).__name__} instead of a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RecordFault(field, "contains half a character (a lone surrogate)") from None
    if not (text := value.strip()):
        raise RecordFault(field, "is empty")
    return text


def item_id(record: Record, fallback: str) -> str:
    """Return the record's own id, or `fallback` if it has none."""
    identity = record.get("id")
    return str(identity) if isinstance(identity, str | int) and str(identity) else fallback


def own_id(doc_id: str, source: str) -> str:
    """Return the id from a document's own record: curation adds the source's name in front of it."""
    return doc_id.removeprefix(f"{source}/")


def passage_of(record: Record, field: str) -> str:
    """Return the name of the passage that a record is about; empty if it names none."""
    name = record.get(field)
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-blank lines with their numbers, counted from 1."""
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:  # malformed JSON or UTF-8
        raise RecordFault("(line)", f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise RecordFault("(line)", f"contains a {type(record).__name__} instead of an object")
    return record


def _parse_text(record: Record, fallback: str) -> Item:
    return Item(id=item_id(record, fallback), prompt=text_field(record, "text"))


def _passages(path: Path) -> list[Item]:
    """Return the passages of a txt file, cut at blank lines."""
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from None
    passages = [""]
    for paragraph in re.split(r"\n[ \t]*\n\s*", "\n".join(text.strip().splitlines())):
        if len(passages[-1]) >= _PASSAGE_CHARACTERS:
            passages.append("")
        passages[-1] = f"{passages[-1]}\n\n{paragraph}".strip()
    if not passages[0]:
        raise DataError(f"{path} is empty", "give a file with text")
    return [Item(id=f"{path.name}#{number}", prompt=passage) for number, passage in enumerate(passages, start=1)]


def _nothing_usable(path: Path, rejected: list[BadRecord]) -> DataError:
    if not rejected:
        return DataError(f"{path} is empty", "give a file with one JSON object per line")
    first = rejected[0]
    example = f"line {first.line}, field {first.field}: {first.reason}"
    return DataError(
        f"{path}: none of {len(rejected)} records can be used; the first, {example}",
        "set the field names in the task's settings, or repair the file",
    )
