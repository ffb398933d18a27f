"""Texts of the rows that a training read when it failed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_MAX_NAMES = 5
"""Number of rows and documents that an error names; the file has all."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One text that a step read."""

    step: int
    row: int
    """Number of the row in the file of its stream, or of the sample in its batch."""
    text: str
    stream: str = ""
    source: str = ""
    document: str = ""
    """Id of the document; empty if it is not known."""


def write_suspects(path: Path, suspects: Sequence[Suspect], *, writes: bool = True) -> str:
    """Write the texts as JSON lines, and return a text that names them; empty without any."""
    if not suspects:
        return ""
    if writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(suspect), ensure_ascii=False) for suspect in suspects]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    by_stream: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        by_stream.setdefault(suspect.stream, []).append(suspect)
    parts = [_named(stream, found) for stream, found in by_stream.items()]
    return "; ".join([*filter(None, parts), f"their text is in {path}"])


def _named(stream: str, suspects: Sequence[Suspect]) -> str:
    if not stream:
        return f"{len(suspects)} samples"
    rows = f"stream {stream}: rows {_first(str(suspect.row) for suspect in suspects)}"
    documents = [suspect.document for suspect in suspects if suspect.document]
    return f"{rows}, documents {_first(documents)}" if documents else rows


def _first(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - _MAX_NAMES} more" if len(distinct) > _MAX_NAMES else ""
    return ", ".join(distinct[:_MAX_NAMES]) + more
