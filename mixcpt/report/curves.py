"""What training measured over its steps, as series by metric and source, and their pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixcpt.report import labels, palette, svg, words

Series = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by source; the source `""` is all of them together."""

_NAME = re.compile(r"train/(?:(?P<source>[^/]+)/)?(?P<metric>\w+)")
_MAX_POINTS = 300
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)))


def by_source(history: Sequence[Mapping[str, Any]], metric: str) -> Series:
    """Returns the series of one metric in the order in which its sources first appear."""
    series: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            found = _NAME.fullmatch(name)
            if found and found["metric"] == metric and math.isfinite(value):
                series.setdefault(found["source"] or "", []).append((int(entry["step"]), float(value)))
    if len(series) == 2:
        series.pop("", None)  # one source alone is all
    return series


def last_values(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Returns the last value of a metric by source."""
    return {source: points[-1][1] for source, points in by_source(history, metric).items()}


def highest(series: Series) -> float:
    """Returns the greatest value of all sources."""
    return max(value for points in series.values() for _, value in points)


def draw_curves(series: Series, title: str, unit: str, top: float) -> Figure:
    """Returns a figure of one metric over the steps, each source labelled at its end; `top` ends the scale."""
    with svg.drawing():
        figure = svg.new_figure(5.2, 3.3)
        axes = figure.subplots()
        axes.set_title(words.shortened(title, 44))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        for index, (source, points) in enumerate(series.items()):
            _draw_line(axes, index, source, points)
        low = min(0.0, min(value for points in series.values() for _, value in points))
        axes.set_ylim(low, (top + 0.05 * (top - low)) or 1.0)
        _draw_labels(figure, axes, series)
    return figure


def describe_curves(series: Series) -> str:
    """Returns the first and the last value of each source in words."""
    if set(series) == {""}:
        return f"From {series[''][0][1]:.3g} to {series[''][-1][1]:.3g}."
    courses = [
        f"{words.printable(source or 'all')} {points[0][1]:.3g} → {points[-1][1]:.3g}"
        for source, points in series.items()
    ]
    return f"First and last: {'; '.join(courses)}."


def _colour(index: int, source: str) -> str:
    return (palette.source(index) if source else palette.BASE).light


def _draw_line(axes: Axes, index: int, source: str, points: Sequence[tuple[int, float]]) -> None:
    stride = max(1, len(points) // _MAX_POINTS)
    steps, values = zip(*points[:-1:stride], points[-1], strict=True)
    axes.plot(
        steps,
        values,
        color=_colour(index, source),
        linewidth=1.6,
        linestyle=_LINES[index // len(palette.SOURCES) % len(_LINES)],
        marker="o" if len(points) == 1 else None,
    )


def _draw_labels(figure: Figure, axes: Axes, series: Series) -> None:
    """Names each line at its end, moved apart where lines end close to each other; a line alone needs no name."""
    texts = [
        axes.text(
            1.02,
            points[-1][1],
            words.shortened(source or "all", 24),
            transform=axes.get_yaxis_transform(),
            color=_colour(index, source),
            va="center",
            fontsize=10,
        )
        for index, (source, points) in enumerate(series.items())
        if source or len(series) > 1
    ]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_display, to_data = axes.transData, axes.transData.inverted()
    heights = [to_display.transform((0, text.get_position()[1]))[1] for text in texts]
    gap = 1.1 * max((text.get_window_extent().height for text in texts), default=0.0)
    for text, height in zip(texts, labels.spread(heights, gap, axes.bbox.y0, axes.bbox.y1), strict=True):
        text.set_y(to_data.transform((0, height))[1])
