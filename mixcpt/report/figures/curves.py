"""What training measured over its steps, as series by metric and source, and their pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixcpt.report import words
from mixcpt.report.figures import labels, palette, svg

Series = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by source; the source `""` is all of them together."""

Style: TypeAlias = tuple[str, str | tuple[int, tuple[float, ...]]]
"""Colour and line."""

_NAME = re.compile(r"train/(?:(?P<source>[^/]+)/)?(?P<metric>\w+)")
_MAX_POINTS = 300
_LINES: Sequence[str | tuple[int, tuple[float, ...]]] = ("-", (0, (5.0, 2.0)), (0, (1.0, 1.5)))


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


def draw_curves(series: Series, title: str, unit: str, *, top: float, sources: Sequence[str]) -> Figure:
    """Returns a figure of one metric over the steps, each source labelled at its end.

    Args:
        series: What is drawn.
        title: Heading of the figure.
        unit: Unit of the metric.
        top: Where the scale ends.
        sources: Every source of the page, which gives each the same colour in all figures.
    """
    styles = {source: _style(sources, source) for source in series}
    with svg.drawing():
        figure = svg.new_figure(5.2, 3.3)
        axes = figure.subplots()
        axes.set_title(words.shortened(title, 44))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        for source, points in series.items():
            _draw_line(axes, styles[source], points)
        low = min(0.0, min(value for points in series.values() for _, value in points))
        axes.set_ylim(low, (top + 0.05 * (top - low)) or 1.0)
        _draw_labels(figure, axes, series, styles)
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


def _style(sources: Sequence[str], source: str) -> Style:
    """Returns colour and line of a source; when the colours are used up they begin again with another line."""
    if not source:
        return palette.BASE.light, "-"
    index = sources.index(source)
    return palette.source(index).light, _LINES[index // len(palette.SOURCES) % len(_LINES)]


def _draw_line(axes: Axes, style: Style, points: Sequence[tuple[int, float]]) -> None:
    stride = max(1, len(points) // _MAX_POINTS)
    steps, values = zip(*points[:-1:stride], points[-1], strict=True)
    colour, line = style
    axes.plot(steps, values, color=colour, linewidth=1.6, linestyle=line, marker="o" if len(points) == 1 else None)


def _draw_labels(figure: Figure, axes: Axes, series: Series, styles: Mapping[str, Style]) -> None:
    """Names each line at its end, moved apart where lines end close to each other; a line alone needs no name."""
    texts = [
        axes.text(
            1.02,
            points[-1][1],
            words.shortened(source or "all", 24),
            transform=axes.get_yaxis_transform(),
            color=styles[source][0],
            va="center",
            fontsize=10,
        )
        for source, points in series.items()
        if source or len(series) > 1
    ]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_display, to_data = axes.transData, axes.transData.inverted()
    heights = [to_display.transform((0, text.get_position()[1]))[1] for text in texts]
    gap = 1.1 * max((text.get_window_extent().height for text in texts), default=0.0)
    for text, height in zip(texts, labels.spread(heights, gap, axes.bbox.y0, axes.bbox.y1), strict=True):
        text.set_y(to_data.transform((0, height))[1])
