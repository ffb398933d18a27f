"""The picture that decides: what each model learned against what it kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
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
_ARROW_BOX = 6.0


@dataclass(frozen=True)
class Point:
    """One model in the picture."""

    name: str
    kept: TaskValue
    learned: TaskValue
    mark: palette.Mark
    is_final: bool

    @property
    def colour(self) -> str:
        return self.mark.colour.light


def save_tradeoff(summary: Summary, path: Path) -> None:
    """Writes the learned-against-forgotten picture to `path` (`.svg` or `.png`)."""
    svg.save(draw_tradeoff(summary), path, "tradeoff", describe_tradeoff(summary))


def draw_tradeoff(summary: Summary) -> Figure:
    """Returns the figure: to the right is kept, upwards is learned, whatever the metrics."""
    paths = _paths(summary)
    points = [point for path in paths for point in path]
    with svg.drawing():
        figure = svg.new_figure(5.8, 4.9)
        axes = figure.subplots()
        _draw_axes(axes, points)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        corners = _draw_corners(axes)
        for path in paths:
            _draw_path(axes, path)
        labels.place(axes, _labels(paths), [*corners, *_whiskers(axes, points), *_arrows(axes, paths)])
    return figure


def describe_tradeoff(summary: Summary) -> str:
    """Returns the picture in words."""
    points = {point.name: point for path in _paths(summary) for point in path if point.is_final}
    said = [
        f"{point.name}: learned {words.value(point.learned.metric, point.learned.value)}, "
        f"kept {words.value(point.kept.metric, point.kept.value)}"
        for point in points.values()
    ]
    return (
        f"Learned ({words.title(summary.headline_domain)}) against kept ({words.title(summary.headline_general)}). "
        + "; ".join(said)
        + "."
    )


def _paths(summary: Summary) -> list[list[Point]]:
    """Returns for each run the way from the base over the pre-trained to the final model."""

    def point(model: ModelSummary, name: str, mark: palette.Mark, is_final: bool) -> Point:
        kept, learned = model.tasks[summary.headline_general], model.tasks[summary.headline_domain]
        return Point(words.shortened(name, 28), kept, learned, mark, is_final)

    base = point(summary.base, "base", palette.BASE_MARK, True)
    paths = []
    for run, mark in zip(summary.runs, palette.run_marks(len(summary.runs)), strict=True):
        path = [base, point(run.final, run.name, mark, True)]
        if run.pretrained:
            path.insert(1, point(run.pretrained, f"{run.name}, pre-trained", mark, False))
        paths.append(path)
    return paths


def _draw_axes(axes: Axes, points: Sequence[Point]) -> None:
    axes.set_title("Learned against forgotten")
    base = points[0]
    values = {"x": [point.kept for point in points], "y": [point.learned for point in points]}
    for (axis, shown), (low, high) in zip(values.items(), scales.ranges(values["x"], values["y"]), strict=True):
        less_is_better = not shown[0].higher_is_better
        getattr(axes, f"set_{axis}lim")(*((high, low) if less_is_better else (low, high)))
        getattr(axes, f"set_{axis}label")(f"{'Kept' if axis == 'x' else 'Learned'}: {_axis_words(shown[0])}")
        if shown[0].metric == "accuracy":
            _scale_in_percent(axes, axis, low, high)
    axes.axvline(base.kept.value, color=palette.RULE.light, linewidth=1.2, zorder=1)
    axes.axhline(base.learned.value, color=palette.RULE.light, linewidth=1.2, zorder=1)


def _axis_words(value: TaskValue) -> str:
    task = words.shortened(words.title(value.task), 40)
    if value.metric == "accuracy":
        return f"{task}, right answers"
    direction = "" if value.higher_is_better else " (less is better, axis turned)"
    return f"{task}, {words.title(value.metric)}{direction}" if value.metric != value.task else f"{task}{direction}"


def _scale_in_percent(axes: Axes, axis: str, low: float, high: float) -> None:
    line = getattr(axes, f"{axis}axis")
    ticks = [0, 0.25, 0.5, 0.75, 1] if (low, high) == scales.WHOLE else line.get_ticklocs()
    line.set_ticks([tick for tick in ticks if max(0, low) <= tick <= min(1, high)])
    line.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))


def _draw_corners(axes: Axes) -> list[Bbox]:
    boxes = []
    for x, y, corner in _CORNERS:
        text = axes.text(
            0.015 + 0.97 * x,
            0.02 + 0.96 * y,
            corner,
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
            xy=(end.kept.value, end.learned.value),
            xytext=(start.kept.value, start.learned.value),
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
    x, y = point.kept.value, point.learned.value
    (left, right), (down, up) = scales.ends(point.kept), scales.ends(point.learned)
    strength = {"color": point.colour, "linewidth": 1.6 if point.is_final else 1.0, "zorder": 3}
    axes.plot([left, right], [y, y], **strength)  # type: ignore[arg-type]
    axes.plot([x, x], [down, up], **strength)  # type: ignore[arg-type]
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


def _labels(paths: Sequence[Sequence[Point]]) -> list[labels.Label]:
    """Returns the labels of all points, the final models first, so that they get the nearest places."""
    points = dict.fromkeys(point for path in paths for point in path)
    return [
        labels.Label(
            point.name,
            point.kept.value,
            point.learned.value,
            point.colour,
            weight="bold" if point.is_final else "normal",
            size=11.0 if point.is_final else 9.5,
        )
        for point in sorted(points, key=lambda point: not point.is_final)
    ]


def _whiskers(axes: Axes, points: Sequence[Point]) -> list[Bbox]:
    """Returns the boxes of the error bars, which labels keep off."""
    boxes = []
    for point in points:
        (left, right), (down, up) = scales.ends(point.kept), scales.ends(point.learned)
        for corner, opposite in (
            ((left, point.learned.value), (right, point.learned.value)),
            ((point.kept.value, down), (point.kept.value, up)),
        ):
            (x0, y0), (x1, y1) = axes.transData.transform([corner, opposite])
            boxes.append(Bbox.from_extents(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return boxes


def _arrows(axes: Axes, paths: Sequence[Sequence[Point]]) -> list[Bbox]:
    """Returns small boxes along the arrows, which labels keep off."""
    boxes = []
    for path in paths:
        for start, end in pairwise(path):
            ends = [(point.kept.value, point.learned.value) for point in (start, end)]
            (x0, y0), (x1, y1) = axes.transData.transform(ends)
            count = max(1, int(math.hypot(x1 - x0, y1 - y0) / _ARROW_BOX))
            for step in range(count + 1):
                x, y = x0 + (x1 - x0) * step / count, y0 + (y1 - y0) * step / count
                boxes.append(Bbox.from_bounds(x - _ARROW_BOX / 2, y - _ARROW_BOX / 2, _ARROW_BOX, _ARROW_BOX))
    return boxes
