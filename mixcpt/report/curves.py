"""What training measured over its steps, as series by metric and source, and their pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

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


def draw_curves(series: Series, title: str, unit: str) -> Figure:
    """Returns a figure of one metric over the steps, each line labelled at its end."""
    with svg.drawing():
        figure = svg.new_figure(5.4, 3.4)
        axes = figure.subplots()
        axes.set_title(words.printable(title))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        texts = [_draw_line(axes, index, source, points) for index, (source, points) in enumerate(series.items())]
        if min(value for points in series.values() for _, value in points) >= 0:
            axes.set_ylim(bottom=0)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        _move_apart(axes, texts)
    return figure


def describe_curves(series: Series, title: str, unit: str) -> str:
    """Returns the picture in words: first and last value of each line."""
    said = [
        f"{source or 'all'} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
        for source, points in series.items()
        if points
    ]
    return f"{title} over the training steps, in {unit}: {'; '.join(said)}."


def _draw_line(axes: Axes, index: int, source: str, points: Sequence[tuple[int, float]]) -> Text:
    colour = palette.mark(index).light if source else palette.BASE.light
    kept = points[:: max(1, len(points) // _MAX_POINTS)]
    if kept[-1] != points[-1]:
        kept = [*kept, points[-1]]
    steps, values = zip(*kept, strict=True)
    axes.plot(
        steps,
        values,
        color=colour,
        linewidth=1.6,
        linestyle=_LINES[index // len(palette.MARKS) % len(_LINES)],
        marker="o" if len(kept) == 1 else None,
    )
    return axes.text(
        1.02,
        values[-1],
        words.shortened(source or "all", 24),
        transform=axes.get_yaxis_transform(),
        color=colour,
        va="center",
        fontsize=10,
    )


def _move_apart(axes: Axes, texts: Sequence[Text]) -> None:
    to_display, to_data = axes.transData, axes.transData.inverted()
    heights = [to_display.transform((0, text.get_position()[1]))[1] for text in texts]
    tallest = max(text.get_window_extent().height for text in texts)
    for text, height in zip(texts, labels.spread(heights, tallest * 1.1, axes.bbox.y0, axes.bbox.y1), strict=True):
        text.set_y(to_data.transform((0, height))[1])
