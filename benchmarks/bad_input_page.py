"""Table and page of the outcomes of bad_inputs.py."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from mixcpt.config import AdaptConfig, AdviseConfig, CompareConfig, ReadaptConfig

_COLUMNS = ("kind", "cases", "used", "warned", "set aside", "refused", "with place", "failed", "MiB", "example")
_BEGIN = "<!-- bad-inputs:begin -->"
_END = "<!-- bad-inputs:end -->"
_PAGE = f"""# Damaged and unusual inputs

`make bad-inputs` makes thousands of damaged or unusual inputs and gives each to the code that a run uses. An input must
be used, set aside with its line and reason, or refused with a message that names the setting or the file. A traceback,
a hang, more than 3 GiB of memory, or a record that disappears is a failure.

{_BEGIN}
{_END}

Columns:

* kind: name of the kind, for `--kinds` and `--only KIND:NUMBER`.
* used, warned: accepted without and with a warning.
* set aside: accepted; unusable records are listed with file, line and reason.
* refused, with place: refused, and the number of refusals that name a setting or a file.
* failed: tracebacks, hangs, lost records, too much memory.
* MiB: highest memory of a process in one case; about 600 MiB of it are the libraries.
* example: first message of the kind.
"""
_KEYS = sorted({*AdaptConfig.model_fields, *CompareConfig.model_fields, *AdviseConfig.model_fields})
_KEY = re.compile(
    rf"(?m)(?:^|[\s('])(?:{'|'.join([*_KEYS, *ReadaptConfig.model_fields, 'source', 'tasks'])})(?:[.:\[]| )"
)
_FILE = re.compile(r"bad-input-|--set|x{100}|\.(?:yaml|json|jsonl|csv|tsv)\b|\(whole file\)")


class Result(Protocol):
    """Outcome of one case."""

    @property
    def kind(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def peak_bytes(self) -> int: ...


def names_place(message: str) -> bool:
    """Return whether a message names a setting or a file."""
    return bool(_KEY.search(message) or _FILE.search(message))


def rows_of(outcomes: Sequence[Result], failures: Sequence[str]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the columns and one row per kind."""
    kinds = dict.fromkeys(outcome.kind for outcome in outcomes)
    return _COLUMNS, [_row(kind, [o for o in outcomes if o.kind == kind], failures) for kind in kinds]


def _row(kind: str, outcomes: Sequence[Result], failures: Sequence[str]) -> list[str]:
    counts = [sum(o.outcome == name for o in outcomes) for name in ("used", "warned", "set aside", "refused")]
    placed = sum(o.outcome == "refused" and names_place(o.message) for o in outcomes)
    failed = sum(o.outcome in failures for o in outcomes)
    peak = max(o.peak_bytes for o in outcomes) >> 20
    return [kind, *map(str, (len(outcomes), *counts, placed, failed, peak)), _example(outcomes)]


def _example(outcomes: Sequence[Result]) -> str:
    """Return the first message, without the names of temporary folders and of characters that a page cannot show."""
    text = next((o.message for o in outcomes if o.message and o.outcome in ("refused", "warned", "set aside")), "")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("->")]
    line = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    line = re.sub(r"/\S*bad-input-[^/\s]*/", "", line)
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= 150 else f"{line[:147]}..."


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], result: Mapping[str, Any]) -> None:
    """Print the table and the RESULT line."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    Console(width=180).print(table)
    print("RESULT " + json.dumps(result))


def write_page(page: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], result: Mapping[str, Any]) -> None:
    """Put the table between the marks of a page; a page that does not exist is created."""
    text = page.read_text(encoding="utf-8") if page.is_file() else _PAGE
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(f"{page} has no lines {_BEGIN} and {_END}")
    content = "\n".join(_lines(columns, rows, result))
    page.write_text(f"{before}{_BEGIN}\n{content}\n{_END}{after}", encoding="utf-8")


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]], result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['cases']:,} cases of seed {result['seed']}: {result['failures']} failures. "
        f"Highest memory of one case: {result['peak_mib']:,} MiB."
    )
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = [*row[:-1], f"`{row[-1].replace('`', chr(39)).replace('|', '/')}`" if row[-1] else ""]
        yield f"| {' | '.join(cells)} |"
