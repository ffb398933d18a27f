"""Learned-against-forgotten figure: headline task of the domain against the general headline task."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from mixcpt.report import words
from mixcpt.report.figures import labels, palette, scales, svg
from mixcpt.report.summary import ModelSummary, Summary, TaskValue

_CORNERS = (
    (0.0, 1.0, "learned, but forgot"),
    (1.0, 1.0, "learned and kept"),
    (0.0, 0.0, "learned nothing, and forgot"),
    (1.0, 0.0, "kept, learned nothing"),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model in the figure."""

    name: str
    kept: TaskValue
    learned: TaskValue
    mark: palette.Mark
    is_final: bool

    @property
    def colour(self) -> str:
        return self.mark.colour.light

    @property
    def place(self) -> tuple[float, float]:
        """Position in data coordinates."""
        return self.kept.value, self.learned.value


def save_tradeoff(summary: Summary, path: Path) -> None:
    """Write the figure to `path` (`.svg` or `.png`)."""
    svg.save(draw_tradeoff(summary), path, "tradeoff", describe_tradeoff(summary))


def draw_tradeoff(summary: Summary) -> Figure:
    """Return the figure; right means kept and up means learned, for every metric."""
    paths = _paths(summary)
    points = list(chain.from_iterable(paths))
    with svg.drawing():
        figure = svg.new_figure(5.8, 4.9)
        axes = figure.subplots()
        _draw_axes(axes, points)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        obstacles = _draw_corners(axes)
        for path in paths:
            _draw_path(axes, path)
            for start, end in pairwise(path):
                obstacles += labels.line_boxes(axes, start.place, end.place)
        for point in points:
            obstacles += labels.cross_boxes(axes, _with_interval(point.kept), _with_interval(point.learned))
        labels.place_labels(axes, _labels(points), obstacles)
    return figure


def describe_tradeoff(summary: Summary) -> str:
    """Return the figure in words."""
    points = {point.name: point for point in chain.from_iterable(_paths(summary)) if point.is_final}
    values = [
        f"{point.name}: learned {words.value(point.learned.metric, point.learned.value)}, "
        f"kept {words.value(point.kept.metric, point.kept.value)}"
        for point in points.values()
    ]
    learned, kept = words.title(summary.headline_domain), words.title(summary.headline_general)
    return f"Learned ({learned}) against kept ({kept}). {'; '.join(values)}."


def _paths(summary: Summary) -> list[list[Point]]:
    """Return one path per run: base, pre-trained model if evaluated, final model."""
    base = _point(summary, summary.base, "base", palette.BASE_MARK)
    paths = []
    for run, mark in zip(summary.runs, palette.run_marks(len(summary.runs)), strict=True):
        path = [base, _point(summary, run.final, run.name, mark)]
        if run.pretrained:
            path.insert(1, _point(summary, run.pretrained, f"{run.name}, pre-trained", mark))
        paths.append(path)
    return paths


def _point(summary: Summary, model: ModelSummary, name: str, mark: palette.Mark) -> Point:
    return Point(
        name=words.shortened(name, 28),
        kept=model.tasks[summary.headline_general],
        learned=model.tasks[summary.headline_domain],
        mark=mark,
        is_final=model.role != "pretrained",
    )


def _with_interval(value: TaskValue) -> tuple[float, float, float]:
    return (value.value, *scales.ends(value))


def _draw_axes(axes: Axes, points: Sequence[Point]) -> None:
    axes.set_title("Learned against forgotten")
    kept, learned = [point.kept for point in points], [point.learned for point in points]
    x_range, y_range = scales.ranges(kept, learned)
    axes.set_xlim(*_oriented(kept[0], x_range))
    axes.set_ylim(*_oriented(learned[0], y_range))
    axes.set_xlabel(f"Kept: {_axis_title(kept[0])}")
    axes.set_ylabel(f"Learned: {_axis_title(learned[0])}")
    for axis, value, limits in ((axes.xaxis, kept[0], x_range), (axes.yaxis, learned[0], y_range)):
        if value.metric == "accuracy":
            _show_percent(axis, limits)
    axes.axvline(kept[0].value, color=palette.RULE.light, linewidth=1.2, zorder=1)
    axes.axhline(learned[0].value, color=palette.RULE.light, linewidth=1.2, zorder=1)


def _oriented(value: TaskValue, limits: scales.Range) -> scales.Range:
    """Return the limits so that better values are right or up."""
    low, high = limits
    return (low, high) if value.higher_is_better else (high, low)


def _axis_title(value: TaskValue) -> str:
    task = words.shortened(words.title(value.task), 40)
    if value.metric == "accuracy":
        return f"{task}, accuracy"
    direction = "" if value.higher_is_better else " (lower is better)"
    return f"{task}, {words.title(value.metric)}{direction}" if value.metric != value.task else f"{task}{direction}"


def _show_percent(axis: Axis, limits: scales.Range) -> None:
    low, high = limits
    ticks = [0, 0.25, 0.5, 0.75, 1] if limits == scales.WHOLE else axis.get_ticklocs()
    axis.set_ticks([tick for tick in ticks if max(0, low) <= tick <= min(1, high)])
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))


def _draw_corners(axes: Axes) -> list[Bbox]:
    """Draw the meanings of the corners and return the boxes of the texts in pixels."""
    boxes = []
    for x, y, meaning in _CORNERS:
        text = axes.text(
            0.015 + 0.97 * x,
            0.02 + 0.96 * y,
            meaning,
            transform=axes.transAxes,
            ha="right" if x else "left",
            va="top" if y else "bottom",
            color=palette.MUTED.light,
            style="italic",
            fontsize=10,
            bbox={"facecolor": palette.PAGE.light, "edgecolor": "none", "pad": 2},
        )
        boxes.append(text.get_window_extent())
    return boxes


def _draw_path(axes: Axes, path: Sequence[Point]) -> None:
    for start, end in pairwise(path):
        axes.annotate(
            "",
            xy=end.place,
            xytext=start.place,
            arrowprops={
                "arrowstyle": "-|>",
                "color": end.colour,
                "linewidth": 1.1,
                "linestyle": "-" if end.is_final else (0, (3, 2)),
                "shrinkA": 5,
                "shrinkB": 6,
                "alpha": 0.55,
            },
            zorder=2,
        )
    for point in path:
        _draw_point(axes, point)


def _draw_point(axes: Axes, point: Point) -> None:
    x, y = point.place
    line: dict[str, Any] = {"color": point.colour, "linewidth": 1.6 if point.is_final else 1.0, "zorder": 3}
    axes.plot(scales.ends(point.kept), [y, y], **line)
    axes.plot([x, x], scales.ends(point.learned), **line)
    axes.plot(
        [x],
        [y],
        marker=point.mark.shape,
        markersize=9 if point.is_final else 7,
        color=point.colour,
        markerfacecolor=point.colour if point.is_final else palette.PAGE.light,
        markeredgewidth=1.5,
        linestyle="none",
        zorder=4,
    )


def _labels(points: Sequence[Point]) -> list[labels.Label]:
    """Return the labels of all points, final models first."""
    return [
        labels.Label(
            text=point.name,
            x=point.kept.value,
            y=point.learned.value,
            colour=point.colour,
            is_bold=point.is_final,
            size=11.0 if point.is_final else 9.5,
        )
        for point in sorted(dict.fromkeys(points), key=lambda point: not point.is_final)
    ]
