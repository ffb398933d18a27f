"""Records of jsonl, json, csv and tsv files, each with its line; a record that cannot be read keeps its reason."""

import ast
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mixcpt.errors import DataError

Record: TypeAlias = Mapping[str, Any]

_MAX_CELL_CHARACTERS = 1 << 24
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_FORMATS = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class BadRecord:
    """An unusable record and the reason."""

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, field {self.field}: {self.reason}"


class RecordFault(ValueError):
    """A fault in a record, raised with field and reason; a reader turns it into a `BadRecord`."""


@dataclass(frozen=True)
class Row:
    """One record of a file, or the fault that makes it unreadable."""

    line: int
    record: Record
    fault: RecordFault | None = None
    number: int = 0
    """Number of the record in its file, counted from 1, if several can be on one line."""

    @property
    def name(self) -> str:
        """Name of the record in its file."""
        return str(self.number or self.line)


def format_of(path: Path) -> str:
    """Return the suffix that names the format of a file, in lower case and without .gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_rows(path: Path) -> list[Row]:
    """Return the records of a file with their lines.

    Raises:
        DataError: If the file cannot be read, is not of a known format, or is empty.
    """
    readers = {".jsonl": _json_lines, ".json": _json_rows, ".csv": _table_rows, ".tsv": _table_rows}
    if format_of(path) not in readers:
        raise DataError(f"{path} is not a file of records ({', '.join(_FORMATS)}; each may end in .gz)")
    rows = list(readers[format_of(path)](path))
    if not rows:
        expected = "one JSON object per line" if format_of(path) == ".jsonl" else "at least one record"
        raise DataError(f"{path} is empty", f"give a file with {expected}")
    return rows


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in .gz; raise `DataError` if it cannot be read."""
    hint = "check the path; it is relative to the current folder"
    try:
        if path.is_fifo() or path.is_char_device():
            raise DataError(f"{path} is a pipe or device, not a file", hint)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint) from error
    except ValueError as error:  # a NUL character
        raise DataError(f"{str(path)!r} is not a path: {error}", hint) from error
    if path.suffix != ".gz":
        if data.startswith(_GZIP):
            raise DataError(f"{path} is gzip-compressed, which its name does not say", "add .gz to its name")
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}", "download or compress it again") from error


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without a byte order mark; raise `DataError` for another encoding."""
    data = read_bytes(path)
    if data.startswith(_UTF16):
        raise DataError(f"{path} is UTF-16, not UTF-8", "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: line {line} has the byte 0x{data[error.start]:02x}, as in Latin-1 or Windows-1252",
            f"save it as UTF-8, e.g. iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
        ) from None


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


def field_value(record: Record, field: str) -> Any:
    """Return the value of a field; raise `RecordFault` if the record does not have it."""
    if field not in record:
        raise RecordFault(field, f"is missing; the record has: {', '.join(record)}")
    return record[field]


def text_field(record: Record, field: str) -> str:
    """Return the text of a field without surrounding white space; raise `RecordFault` if there is none."""
    return clean_text(field_value(record, field), field)


def item_id(record: Record, fallback: str) -> str:
    """Return the record's own id, or `fallback` if it has none."""
    identity = record.get("id")
    return str(identity) if isinstance(identity, str | int) and str(identity) else fallback


def literal(text: str) -> Any:
    """Return the list or object that a cell of a table spells as JSON or Python; the text itself if it is neither."""
    if not text.strip().startswith(("[", "{")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def nothing_usable(path: Path, rows: list[Row], rejected: list[BadRecord]) -> DataError:
    """Return the error for a file whose records are all rejected: the first three reasons and the fields."""
    reasons = dict.fromkeys((bad.field, bad.reason) for bad in rejected)
    first = {(bad.field, bad.reason): bad for bad in reversed(rejected)}
    examples = [f"line {first[reason].line}, field {reason[0]}: {reason[1]}" for reason in list(reasons)[:3]]
    fields = next((", ".join(row.record) for row in rows if row.record), "none")
    return DataError(
        f"{path}: none of {len(rejected)} records can be used; the first, {'; '.join(examples)}. Its fields: {fields}",
        "set the field names in the task's settings, or repair the file; docs/evaluation.md shows every form",
    )


def _json_lines(path: Path) -> Iterator[Row]:
    data = read_bytes(path)
    if data.startswith(_UTF16):
        raise DataError(f"{path} is UTF-16, not UTF-8", "save it as UTF-8")
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: bytes | str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # malformed JSON or UTF-8
        return Row(number, {}, RecordFault("(line)", f"is not JSON: {error}"))
    if not isinstance(record, dict):
        return Row(number, {}, RecordFault("(line)", f"contains a {type(record).__name__} instead of an object"))
    return Row(number, record)


def _json_rows(path: Path) -> Iterator[Row]:
    """Yield the records of a list, of the only list in an object, or of an object of objects; or of JSON lines."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = text.split("\n")
        if "Extra data" not in str(error):  # not one object per line either
            raise DataError(f"{path} is not JSON: {error}", "repair the file") from None
        yield from (_json_row(number, line) for number, line in enumerate(lines, start=1) if line.strip())
        return
    start = 0
    if isinstance(value, dict):
        lists = {key: part for key, part in value.items() if isinstance(part, list)}
        if len(lists) == 1:
            ((key, value),) = lists.items()
            found = re.search(rf"{re.escape(json.dumps(key))}\s*:\s*\[", text)
            start = found.end() - 1 if found else 0
        elif value and all(isinstance(part, dict) for part in value.values()):
            value = [{"id": key, **part} for key, part in value.items()]
            start = -1
    if not isinstance(value, list):
        keys = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"{path} has no list of records but: {keys}", 'give a list, or an object with one list: {"data": [...]}'
        )
    lines_of = _lines_of_elements(text, start, len(value)) if start >= 0 else None
    for place, record in enumerate(value):
        line = lines_of[place] if lines_of else place + 1
        if isinstance(record, dict):
            yield Row(line, record, number=place + 1)
        else:
            yield Row(line, {}, RecordFault("(record)", f"is a {type(record).__name__} instead of an object"))


def _lines_of_elements(text: str, start: int, count: int) -> list[int] | None:
    """Return the line on which each element of a JSON list begins; None if the list is not found at `start`."""
    decoder, separator = json.JSONDecoder(), re.compile(r"[\s,]*")
    place = text.find("[", start) + 1
    lines, line, counted = [], 1, 0
    for _ in range(count):
        place = separator.match(text, place).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, place), place
        lines.append(line)
        try:
            _, place = decoder.raw_decode(text, place)
        except ValueError:
            return None
    return lines


def _table_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table; the delimiter is the one that its header has most often."""
    text = read_text(path)
    header_line = text.partition("\n")[0]
    delimiters = "\t,;" if format_of(path) == ".tsv" else ",;\t"
    delimiter = max(delimiters, key=header_line.count)
    if not header_line.count(delimiter):
        name = "tab" if format_of(path) == ".tsv" else "comma, semicolon or tab"
        raise DataError(f"{path}: its first line has no {name}: {header_line[:80]!r}", "give a table with a header")
    try:
        cells = list(_cells(text, delimiter, quoting=csv.QUOTE_MINIMAL))
    except csv.Error as error:
        if format_of(path) != ".tsv":
            raise DataError(f"{path} has damaged quotes: {error}", "write a quote inside a quoted cell twice") from None
        cells = list(_cells(text, delimiter, quoting=csv.QUOTE_NONE))
    (_, header), *rows = cells
    names = [name.strip() for name in header]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: the header names a column twice: {', '.join(map(repr, twice))}", "rename one of them")
    for line, row in rows:
        if len(row) == len(names):
            yield Row(line, {name: literal(cell) for name, cell in zip(names, row, strict=True)})
        else:
            reason = f"has {len(row)} cells, but the header has {len(names)}: {', '.join(names)}"
            yield Row(line, dict(zip(names, row, strict=False)), RecordFault("(line)", reason))


def _cells(text: str, delimiter: str, *, quoting: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of every row that is not empty; raise `csv.Error` for damaged quotes."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise csv.Error(f"line {line}: {error}") from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield line, row
