"""The records of curation: raw records and the fields read from them, defects, and parsed records."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixcpt.config import FieldNames, FilesSource, HuggingFaceSource, Pool, Source

TEXT_NAMES: dict[Pool, tuple[str, ...]] = {
    "domain": ("text",),
    "general": ("text",),
    "instructions": ("prompt", "response"),
    "preferences": ("prompt", "chosen", "rejected"),
}
"""Names of the texts in a record, by pool."""

DOCUMENT_POOLS: tuple[Pool, ...] = ("domain", "general")
"""Pools whose records are one text; a part of them is held out."""

_MAX_RAW_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as read from a file, with its place."""

    file: str
    line: int
    """Line in a text file or number of the record otherwise, counted from 1."""
    values: Mapping[str, Any]
    columns: tuple[str, ...] = ()
    """Names of all fields in the file; empty if `values` has all of them."""

    def defect(self, field: str, reason: str) -> "Defect":
        """Return the defect of this record: the reason why it cannot be used."""
        raw = json.dumps(self.values, ensure_ascii=False, default=str)
        return Defect(file=self.file, line=self.line, field=field, reason=reason, raw=raw[:_MAX_RAW_CHARACTERS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """A record, or a whole file, that cannot be used."""

    file: str
    line: int
    field: str = ""
    """Name of the unusable field; empty if the whole record is unusable."""
    reason: str
    raw: str = ""

    @property
    def excerpt(self) -> str:
        """Beginning of the raw record, as valid UTF-8."""
        return printable(self.raw[:_MAX_RAW_CHARACTERS])[:_MAX_RAW_CHARACTERS]

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" + (f", field {self.field!r}" if self.field else "")
        return f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A usable record: one text (documents), prompt and response, or prompt, chosen and rejected."""

    id: str
    source: str
    pool: Pool
    texts: tuple[str, ...]
    """Texts in the order of `TEXT_NAMES`."""
    title: str = ""

    @property
    def text(self) -> str:
        """All texts, joined by line breaks."""
        return "\n".join(self.texts)

    @property
    def num_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)


def field_names(source: Source) -> FieldNames:
    """Return the field names of a source; the closed world has the default names."""
    return source.fields if isinstance(source, FilesSource | HuggingFaceSource) else FieldNames()


def wanted_fields(source: Source) -> tuple[str, ...]:
    """Return all fields that are read from the records of a source."""
    fields = field_names(source)
    by_pool: dict[Pool, tuple[str, ...]] = {
        "domain": (fields.text, "title"),
        "general": (fields.text, "title"),
        "instructions": (fields.prompt, fields.input, fields.response, fields.text),
        "preferences": (fields.prompt, fields.input, fields.chosen, fields.rejected),
    }
    return (fields.id, *by_pool[source.pool])


def printable(text: str) -> str:
    """Return the text with escapes for characters that are invalid in UTF-8 (lone surrogates)."""
    return text.encode("utf-8", "backslashreplace").decode()
