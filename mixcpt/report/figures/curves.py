"""Figures of training metrics over the steps, by source."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mixcpt.report import words
from mixcpt.report.figures import palette, svg
from mixcpt.report.sections.training import Series

Style: TypeAlias = tuple[str, str | tuple[int, tuple[float, ...]]]
"""Colour and line style."""

_MAX_POINTS = 300
_LEGEND_ROWS = 12
_LINES: Sequence[str | tuple[int, tuple[float, ...]]] = ("-", (0, (5.0, 2.0)), (0, (1.0, 1.5)))


def draw_curves(series: Series, title: str, unit: str, *, top: float, sources: Sequence[str]) -> Figure:
    """Return a figure of one metric over the steps, with a legend of the sources.

    Args:
        series: Values of the metric.
        title: Title of the figure.
        unit: Unit of the metric.
        top: Upper end of the scale.
        sources: All sources of the page, so that a source has the same colour in every figure.
    """
    lowest = min(value for _, value in chain.from_iterable(series.values()))
    with svg.drawing():
        figure = svg.new_figure(5.2, 3.3)
        axes = figure.subplots()
        axes.set_title(words.shortened(title, 44))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        lines = {source: _draw_line(axes, source, _style(sources, source), points) for source, points in series.items()}
        bottom = min(0.0, lowest)
        axes.set_ylim(bottom, (top + 0.05 * (top - bottom)) or 1.0)
        _draw_legend(axes, lines, series)
    return figure


def describe_curves(series: Series) -> str:
    """Return the first and last values of all sources in words."""
    if set(series) == {""}:
        return f"From {series[''][0][1]:.3g} to {series[''][-1][1]:.3g}."
    changes = [
        f"{words.printable(source or 'all')} {points[0][1]:.3g} → {points[-1][1]:.3g}"
        for source, points in series.items()
    ]
    return f"First and last value: {'; '.join(changes)}."


def _style(sources: Sequence[str], source: str) -> Style:
    """Return the style of a source; after the last colour they repeat with the next line style."""
    if not source:
        return palette.BASE.light, "-"
    repetition, index = divmod(sources.index(source), len(palette.SOURCES))
    return palette.SOURCES[index].light, _LINES[repetition % len(_LINES)]


def _draw_line(axes: Axes, source: str, style: Style, points: Sequence[tuple[int, float]]) -> Line2D:
    stride = max(1, len(points) // _MAX_POINTS)
    steps, values = zip(*points[:-1:stride], points[-1], strict=True)
    colour, line_style = style
    (line,) = axes.plot(
        steps,
        values,
        label=words.shortened(source or "all", 24),
        color=colour,
        linewidth=1.6,
        linestyle=line_style,
        marker="o" if len(points) == 1 else None,
    )
    return line


def _draw_legend(axes: Axes, lines: Mapping[str, Line2D], series: Series) -> None:
    """List the sources right of the axes, from the highest line end to the lowest; a single line needs no name."""
    by_height = sorted(lines, key=lambda source: -series[source][-1][1])
    if by_height == [""]:
        return
    axes.legend(
        handles=[lines[source] for source in by_height],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.03),
        ncols=1 + (len(lines) - 1) // _LEGEND_ROWS,
        fontsize=10,
        handlelength=1.4,
        labelcolor="linecolor",
        frameon=False,
    )
