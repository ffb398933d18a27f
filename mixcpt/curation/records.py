"""What flows through curation: raw records, what was wrong with the unusable ones, and parsed records."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixcpt.config import Pool

TEXT_NAMES: dict[Pool, tuple[str, ...]] = {
    "domain": ("text",),
    "general": ("text",),
    "instructions": ("prompt", "response"),
    "preferences": ("prompt", "chosen", "rejected"),
}
"""The texts that a record of each pool is made of."""

DOCUMENT_POOLS: tuple[Pool, ...] = ("domain", "general")
"""The pools whose records are one text, and of which a part is held out."""

_MAX_RAW_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as it was read, with the place it came from."""

    file: str
    line: int
    """Line of a text file, else the number of the record; both from 1."""
    values: Mapping[str, Any]

    def defect(self, field: str, reason: str) -> "Defect":
        """Returns why this record cannot be used."""
        return Defect(self.file, self.line, field, reason, json.dumps(self.values, ensure_ascii=False, default=str))


@dataclass(frozen=True, slots=True)
class Defect:
    """A record, or a whole file, that cannot be used."""

    file: str
    line: int
    field: str
    """Empty where the record as a whole is unusable."""
    reason: str
    raw: str = ""

    @property
    def excerpt(self) -> str:
        """The beginning of the raw record, fit for UTF-8."""
        return printable(self.raw[:_MAX_RAW_CHARACTERS])[:_MAX_RAW_CHARACTERS]

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" + (f", field {self.field!r}" if self.field else "")
        return f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Record:
    """A usable record: one text (documents), prompt and response, or prompt, chosen and rejected."""

    id: str
    source: str
    pool: Pool
    texts: tuple[str, ...]
    """In the order of `TEXT_NAMES`."""
    title: str = ""

    @property
    def text(self) -> str:
        """All texts as one; a document's own text."""
        return "\n".join(self.texts)

    @property
    def num_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)


def printable(text: str) -> str:
    """Returns the text with whatever UTF-8 cannot hold (lone surrogates) spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()
