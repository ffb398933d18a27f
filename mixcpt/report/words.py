"""How numbers and foreign text are written in tables, pictures and pages."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

Number: TypeAlias = int | float

MISSING = "–"
"""Stands where there is no number."""

SETTINGS = {"domain_share": "share of the domain", "alpha": "alpha", "learning_rate": "learning rate"}
"""What a search for a mixture varies."""

_MINUS = "\u2212"
_SPACE = "\u00a0"  # a number and its unit stay on one line
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: object) -> str:
    """Returns `text` without control characters, which could steer a terminal or break an SVG."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs") else _REPLACEMENT
        for character in str(text)
    )


def shortened(text: object, max_characters: int) -> str:
    """Returns `text` on one line, cut with an ellipsis where it is longer than `max_characters`."""
    line = " ".join(printable(text).split())
    return line if len(line) <= max_characters else line[: max_characters - 1].rstrip() + "…"


def markdown(text: object, max_characters: int = 400) -> str:
    """Returns `text` on one line as Markdown, and the HTML it becomes, show it: no sign of it is markup."""
    line = shortened(text, max_characters).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!])", r"\\\1", line)


def title(name: str) -> str:
    """Returns a task's or metric's name as words."""
    return printable(name).replace("_", " ")


def listing(words: Sequence[str]) -> str:
    """Returns `a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part) if words else ""


def value(metric: str, number: Number | None) -> str:
    """Returns a measured value: accuracy as a percentage, anything else with three decimals."""
    if number is None or not math.isfinite(number):
        return MISSING
    return f"{100 * number:.1f}{_SPACE}%" if metric == "accuracy" else _signed(number, "", 3)


def change(metric: str, number: Number) -> str:
    """Returns a difference with its sign: accuracy in percentage points, anything else in its own unit."""
    if not math.isfinite(number):
        return MISSING
    return _signed(100 * number, "+", 1) if metric == "accuracy" else _signed(number, "+", 3)


def interval(metric: str, low: Number, high: Number) -> str:
    """Returns `+1.0 to +2.0`."""
    return f"{change(metric, low)} to {change(metric, high)}"


def score(number: Number) -> str:
    """Returns what trainings are chosen by, e.g. `0.435`."""
    return _signed(number, "", 3)


def unit(metric: str) -> str:
    """Returns the unit in which `change` is written."""
    return "points" if metric == "accuracy" else title(metric)


def count(number: Number | None) -> str:
    """Returns a whole number with thousands separators."""
    return MISSING if number is None else f"{round(number):,}"


def level(confidence: Number) -> str:
    """Returns the level of an interval, e.g. `95 %`."""
    return f"{100 * confidence:g}{_SPACE}%"


def percent(fraction: Number | None) -> str:
    """Returns a share as a percentage with one decimal."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}{_SPACE}%"


def chance(p_value: Number) -> str:
    """Returns a p-value with three decimals."""
    if not math.isfinite(p_value):
        return MISSING
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def magnitude(number: Number | None, symbol: str = "") -> str:
    """Returns three significant digits and a decimal prefix, e.g. `1.30 M` or `4.20 TFLOP`."""
    return MISSING if number is None else _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"), symbol)


def size(num_bytes: Number | None) -> str:
    """Returns three significant digits and a binary unit, e.g. `1.50 MiB`."""
    return MISSING if num_bytes is None else _scaled(num_bytes, 1024, ("", "Ki", "Mi", "Gi", "Ti", "Pi"), "B")


def duration(seconds: Number | None) -> str:
    """Returns e.g. `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h {minutes:02d}{_SPACE}min"


def _signed(number: Number, plus: str, decimals: int) -> str:
    rounded = round(number, decimals)
    if rounded == 0:
        return f"{0:.{decimals}f}"
    return f"{plus if rounded > 0 else _MINUS}{abs(rounded):.{decimals}f}"


def _scaled(number: Number, step: int, prefixes: Sequence[str], symbol: str) -> str:
    exponent = 0
    while abs(number) >= step and exponent < len(prefixes) - 1:
        number, exponent = number / step, exponent + 1
    digits = f"{number:.0f}" if exponent == 0 or abs(number) >= 100 else f"{number:.{2 if abs(number) < 10 else 1}f}"
    return f"{digits}{_SPACE}{prefixes[exponent]}{symbol}".rstrip()
