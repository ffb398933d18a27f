"""How much of each axis the learned-against-forgotten picture shows."""

import math
from collections.abc import Sequence
from typing import TypeAlias

from mixcpt.report.summary import TaskValue

Range: TypeAlias = tuple[float, float]

WHOLE: Range = (-0.14, 1.14)
"""All accuracies, with room for words around them."""

_WHOLE_FROM = 0.5
"""Accuracies that differ by more than this are shown on the whole scale."""
_MIN_SPAN = 0.08
"""Smaller differences are not blown up any further."""
_MARGIN = 1.6


def ranges(kept: Sequence[TaskValue], learned: Sequence[TaskValue]) -> tuple[Range, Range]:
    """Returns what the two axes show.

    Where the metrics are the same both are equally long, so that a point lost looks as large as a point gained.
    """
    spans = _span(kept), _span(learned)
    if kept[0].metric == learned[0].metric:
        spans = max(spans), max(spans)
    return _range(kept, spans[0]), _range(learned, spans[1])


def ends(value: TaskValue) -> Range:
    """Returns the interval of the change to base, put onto the base's value; where there is none, just the value."""
    if not value.change or math.isnan(value.change.low):
        return value.value, value.value
    return value.change.base + value.change.low, value.change.base + value.change.high


def _range(values: Sequence[TaskValue], span: float) -> Range:
    if values[0].metric == "accuracy" and span > _WHOLE_FROM:
        return WHOLE
    low, high = _extremes(values)
    middle = (low + high) / 2
    return middle - _MARGIN * span / 2, middle + _MARGIN * span / 2


def _span(values: Sequence[TaskValue]) -> float:
    low, high = _extremes(values)
    return max(high - low, _MIN_SPAN)


def _extremes(values: Sequence[TaskValue]) -> Range:
    all_ends = [end for value in values for end in ends(value)]
    return min(all_ends), max(all_ends)
