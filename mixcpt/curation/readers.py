"""Read files of every kind into raw records; a damaged line or file becomes a defect and the rest is still read."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mixcpt.config import Source
from mixcpt.curation.records import Defect, RawRecord, field_names, wanted_fields

Item = RawRecord | Defect

DOCUMENT_SUFFIXES = (".txt", ".md")
"""Suffixes of files that are one document without fields."""

_BLOCK_BYTES = 1 << 20
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


class _Damaged(Exception):
    """Raised for a truncated file or broken compression; `rest` is the unfinished end."""

    def __init__(self, reason: str, rest: bytes = b"") -> None:
        super().__init__(reason)
        self.rest = rest


def reader_kind(path: Path) -> str:
    """Return the suffix that decides how the file is read; empty for an unknown kind of file."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    compressed_parquet = suffix == ".parquet" and name.endswith(".gz")
    return suffix if suffix in _READERS and not compressed_parquet else ""


def read_file(path: Path, name: str, source: Source) -> Iterator[Item]:
    """Yield the records of one file in order; `name` is the name of the file in reports."""
    return _READERS[reader_kind(path)](path, name, source)


def _read_lines(path: Path, name: str, source: Source) -> Iterator[Item]:
    number = 0
    try:
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                yield _parse_line(line, name, number)
    except _Damaged as damage:
        yield Defect(file=name, line=number + 1, reason=str(damage), raw=_visible(damage.rest))


def _parse_line(line: bytes, name: str, number: int) -> Item:
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        reason = f"is no valid UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} at column {error.colno}"
    except (RecursionError, ValueError) as error:
        reason = f"broken JSON: {error}"
    else:
        return _object(value, name, number, _visible(line))
    return Defect(file=name, line=number, reason=reason, raw=_visible(line))


def _object(value: Any, name: str, number: int, raw: str) -> Item:
    if isinstance(value, dict):
        return RawRecord(name, number, value)
    reason = f"holds a {type(value).__name__} where an object (field: value) was expected"
    return Defect(file=name, line=number, reason=reason, raw=raw)


def _read_json(path: Path, name: str, source: Source) -> Iterator[Item]:
    """Yield the members of a JSON list; a .json file with one object per line is read as lines."""
    content, damage = _content(path)
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if text.lstrip().startswith("["):
        yield from _members(text, name, damage)
    elif not text.strip() or isinstance(_parse_line(content.strip().partition(b"\n")[0], name, 1), RawRecord):
        yield from _read_lines(path, name, source)
    else:
        reason = damage or "holds neither a list of records nor one record a line"
        yield Defect(file=name, line=1, reason=reason, raw=text)


def _members(text: str, name: str, damage: str) -> Iterator[Item]:
    line, counted = 1, 0
    position = _skip_space(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = _DECODER.raw_decode(text, position)
            following = _skip_space(text, end)
            if text[following : following + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, following)
        except (ValueError, RecursionError) as error:
            reason = damage or f"broken JSON, the rest is lost: {error}"
            yield Defect(file=name, line=line, reason=reason, raw=text[position:])
            return
        yield _object(value, name, line, text[position:end])
        position = following if text[following] == "]" else _skip_space(text, following + 1)
    rest = text[position + 1 :].strip()
    if rest or damage:
        yield Defect(file=name, line=line, reason=damage or "broken JSON: something follows the list", raw=rest)


def _read_document(path: Path, name: str, source: Source) -> Iterator[Item]:
    content, damage = _content(path)
    if damage:
        yield Defect(file=name, line=1, reason=damage, raw=_visible(content))
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Defect(file=name, line=line, reason=f"is no valid UTF-8 at byte {error.start}", raw=_visible(content))
        return
    fields = field_names(source)
    yield RawRecord(name, 1, {fields.id: name, "title": path.name.removesuffix(".gz"), fields.text: text})


def _read_parquet(path: Path, name: str, source: Source) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [column for column in file.schema_arrow.names if column in wanted_fields(source)]
            for batch in file.iter_batches(columns=columns or None):
                for values in batch.to_pylist():
                    number += 1
                    yield RawRecord(name, number, values)
    except (pa.ArrowException, OSError) as error:
        yield Defect(file=name, line=number + 1, reason=f"damaged parquet: {error}")


_READERS: dict[str, Callable[[Path, str, Source], Iterator[Item]]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_document,
    ".md": _read_document,
}

KNOWN_SUFFIXES = tuple(_READERS)


def _lines(path: Path) -> Iterator[bytes]:
    rest = b""
    try:
        for block in _blocks(path):
            *complete, rest = (rest + block).split(b"\n")
            yield from complete
    except _Damaged as damage:
        raise _Damaged(str(damage), rest) from None
    if rest:
        yield rest


def _content(path: Path) -> tuple[bytes, str]:
    """Return the readable part of the file, and the reason if the rest is damaged."""
    blocks: list[bytes] = []
    try:
        for block in _blocks(path):
            blocks.append(block)  # not `extend`, which would lose the blocks before the damage
    except _Damaged as damage:
        return b"".join(blocks), str(damage)
    return b"".join(blocks), ""


def _blocks(path: Path) -> Iterator[bytes]:
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as stream:
        try:
            while block := stream.read1(_BLOCK_BYTES):  # `read` would lose the data before the damage
                yield block
        except EOFError:
            raise _Damaged("the gzip file is truncated: it ends before its contents do") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _Damaged(f"damaged gzip: {error}") from None


def _visible(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").rstrip("\r")


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position
