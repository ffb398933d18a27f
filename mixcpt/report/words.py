"""Formatting of numbers and user text in tables, figures and pages."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

Number: TypeAlias = int | float

MISSING = "–"
"""Placeholder for a missing number."""

SETTINGS = {"domain_share": "share of the domain", "alpha": "alpha", "learning_rate": "learning rate"}
"""Titles of the settings that a search for a mixture varies."""

_MINUS = "\u2212"
_SPACE = "\u00a0"  # non-breaking: keeps a number and its unit on one line
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: object) -> str:
    """Return `text` without control characters, which could control a terminal or break an SVG."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs") else _REPLACEMENT
        for character in str(text)
    )


def shortened(text: object, max_characters: int) -> str:
    """Return `text` on one line, cut with an ellipsis if it is longer than `max_characters`."""
    line = " ".join(printable(text).split())
    return line if len(line) <= max_characters else line[: max_characters - 1].rstrip() + "…"


def markdown(text: object, max_characters: int = 400) -> str:
    """Return `text` on one line, escaped so that Markdown and HTML show it literally."""
    line = shortened(text, max_characters).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!])", r"\\\1", line)


def title(name: str) -> str:
    """Return the name of a task or metric as words."""
    return printable(name).replace("_", " ")


def listing(items: Sequence[str]) -> str:
    """Return the items as `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def value(metric: str, number: Number | None) -> str:
    """Return a measured value: accuracy as a percentage, other metrics with three decimals."""
    if number is None or not math.isfinite(number):
        return MISSING
    return f"{100 * number:.1f}{_SPACE}%" if metric == "accuracy" else _signed(number, "", 3)


def change(metric: str, number: Number) -> str:
    """Return a signed difference: accuracy in percentage points, other metrics in their own unit."""
    if not math.isfinite(number):
        return MISSING
    return _signed(100 * number, "+", 1) if metric == "accuracy" else _signed(number, "+", 3)


def interval(metric: str, low: Number, high: Number) -> str:
    """Return an interval, e.g. `+1.0 to +2.0`."""
    return f"{change(metric, low)} to {change(metric, high)}"


def score(number: Number) -> str:
    """Return a selection score, e.g. `0.435`."""
    return _signed(number, "", 3)


def unit(metric: str) -> str:
    """Return the unit that `change` uses for a metric."""
    return "points" if metric == "accuracy" else title(metric)


def count(number: Number | None) -> str:
    """Return a whole number with thousands separators."""
    return MISSING if number is None else f"{round(number):,}"


def number_of(number: int, noun: str) -> str:
    """Return a count with its noun in the singular or plural, e.g. `7 passages`."""
    return f"{count(number)}{_SPACE}{noun}{'' if number == 1 else 's'}"


def level(confidence: Number) -> str:
    """Return the level of an interval, e.g. `95 %`."""
    return f"{100 * confidence:g}{_SPACE}%"


def percent(fraction: Number | None) -> str:
    """Return a share as a percentage with one decimal."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}{_SPACE}%"


def chance(p_value: Number) -> str:
    """Return a p-value with three decimals."""
    if not math.isfinite(p_value):
        return MISSING
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def magnitude(number: Number | None, symbol: str = "") -> str:
    """Return three significant digits and a decimal prefix, e.g. `1.30 M` or `4.20 TFLOP`."""
    return MISSING if number is None else _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"), symbol)


def size(num_bytes: Number | None) -> str:
    """Return three significant digits and a binary unit, e.g. `1.50 MiB`."""
    return MISSING if num_bytes is None else _scaled(num_bytes, 1024, ("", "Ki", "Mi", "Gi", "Ti", "Pi"), "B")


def duration(seconds: Number | None) -> str:
    """Return a duration, e.g. `4.2 s`, `3 min 05 s` or `2 h 10 min`."""
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
    significant = abs(number)
    decimals = 0 if exponent == 0 or significant >= 100 else 1 if significant >= 10 else 2
    digits = f"{number:.{decimals}f}"
    return f"{digits}{_SPACE}{prefixes[exponent]}{symbol}".rstrip()
