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

MAX_RECORD_BYTES = 1 << 30
"""Maximum size of a line, or of a file that is read as a whole, in bytes, because of the memory that it needs."""

_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 1_000
_MAX_RAW_CHARACTERS = 8_000
_SPACE = re.compile(r"\s*")
_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": "is a zip archive or an office document",
    b"PAR1": "is a parquet file; name it .parquet",
    b"ARROW1": "is an Arrow file; save it as parquet",
    b"%PDF-": "is a PDF document; convert it to text",
    b"BZh": "is compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "is compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it, or compress it with gzip",
    b"SQLite format 3": "is an SQLite database; export its table",
    b"\xff\xfe": "is UTF-16 text; convert it to UTF-8: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "is UTF-16 text; convert it to UTF-8: iconv -f UTF-16 -t UTF-8",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; run git lfs pull",
}
"""Kinds of content that are no text, by the first bytes of the file."""


class _Damaged(Exception):
    """Raised for a truncated file, broken compression, or content that is no text; `rest` is the unfinished end."""

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
        value = _DECODER.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        reason = _no_utf8(error)
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} at column {error.colno}"
        if b"\0" in line:
            reason = "holds NUL bytes: the file is UTF-16, binary or damaged; convert it to UTF-8"
    except (RecursionError, ValueError) as error:
        reason = f"broken JSON: {error}"
    else:
        if isinstance(value, dict):
            return RawRecord(name, number, value)
        reason = _no_object(value)
    return Defect(file=name, line=number, reason=reason, raw=_visible(line))


def _no_object(value: Any) -> str:
    return f"holds a {type(value).__name__} where an object (field: value) was expected"


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"is no valid UTF-8 at byte {error.start}; convert the file, e.g. from Latin-1: iconv -f LATIN1 -t UTF-8"


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object; `json` would drop all but the last value of a repeated field."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is given twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repetition)


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
        if isinstance(value, dict):
            yield RawRecord(name, line, value)
        else:
            raw = text[position : min(end, position + _MAX_RAW_CHARACTERS)]
            yield Defect(file=name, line=line, reason=_no_object(value), raw=raw)
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
        yield Defect(file=name, line=line, reason=_no_utf8(error), raw=_visible(content))
        return
    fields = field_names(source)
    yield RawRecord(name, 1, {fields.id: name, "title": path.name.removesuffix(".gz"), fields.text: text})


def _read_parquet(path: Path, name: str, source: Source) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            columns = [column for column in names if column in wanted_fields(source)]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns or None):
                for values in batch.to_pylist():
                    number += 1
                    yield RawRecord(name, number, values, names)
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
    unfinished: list[bytes] = []
    """Parts of the last line; joined once, so that the time is linear in the length of a line."""
    num_bytes = 0
    try:
        for block in _blocks(path):
            first, *others = block.split(b"\n")
            unfinished.append(first)
            num_bytes += len(first)
            if others:
                yield b"".join(unfinished)
                yield from others[:-1]
                unfinished, num_bytes = [others[-1]], len(others[-1])
            elif num_bytes > MAX_RECORD_BYTES:
                raise _too_large("line")
    except _Damaged as damage:
        raise _Damaged(str(damage), b"".join(unfinished)[:_MAX_RAW_CHARACTERS]) from None
    if rest := b"".join(unfinished):
        yield rest


def _too_large(what: str) -> _Damaged:
    return _Damaged(f"{what} of more than {MAX_RECORD_BYTES >> 20} MiB; split it into several records")


def _content(path: Path) -> tuple[bytes, str]:
    """Return the readable part of the file, and the reason if the rest is damaged."""
    blocks: list[bytes] = []
    num_bytes = 0
    try:
        for block in _blocks(path):
            blocks.append(block)  # not `extend`, which would lose the blocks before the damage
            num_bytes += len(block)
            if num_bytes > MAX_RECORD_BYTES:
                raise _too_large("file")
    except _Damaged as damage:
        return b"".join(blocks), str(damage)
    return b"".join(blocks), ""


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        start = file.read(max(map(len, _FOREIGN)))
        file.seek(0)
        for magic, kind in _FOREIGN.items():
            if start.startswith(magic):
                raise _Damaged(kind)
        is_gzip = start.startswith(_GZIP) or path.name.lower().endswith(".gz")
        stream: Any = gzip.GzipFile(fileobj=file) if is_gzip else file
        try:
            while block := stream.read1(_BLOCK_BYTES):  # `read` would lose the data before the damage
                yield block
        except EOFError:
            raise _Damaged("the gzip file is truncated: it ends before its contents do") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _Damaged(f"damaged gzip: {error}") from None


def _visible(raw: bytes) -> str:
    return raw[:_MAX_RAW_CHARACTERS].decode("utf-8", "backslashreplace").rstrip("\r")


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position
