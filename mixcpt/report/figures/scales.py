"""Axis ranges of the learned-against-forgotten figure."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

from mixcpt.report.summary import TaskValue

Range: TypeAlias = tuple[float, float]

WHOLE: Range = (-0.14, 1.14)
"""Range of all accuracies, with a margin for labels."""

_WHOLE_FROM = 0.5
"""Span of accuracies above which the axis shows the whole range."""
_MIN_SPAN = 0.08
"""Smallest span of an axis before the margin."""
_MARGIN = 1.6
"""Length of an axis as a multiple of the span of its values."""


def ranges(kept: Sequence[TaskValue], learned: Sequence[TaskValue]) -> tuple[Range, Range]:
    """Return the ranges of the two axes.

    If the metrics are the same, both ranges have the same length, so that a loss looks as large as an equal gain.
    """
    spans = _span(kept), _span(learned)
    if kept[0].metric == learned[0].metric:
        spans = max(spans), max(spans)
    return _range(kept, spans[0]), _range(learned, spans[1])


def ends(value: TaskValue) -> Range:
    """Return the base's value plus the interval of the change; the value twice if there is no interval."""
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
    all_ends = list(chain.from_iterable(ends(value) for value in values))
    return min(all_ends), max(all_ends)
