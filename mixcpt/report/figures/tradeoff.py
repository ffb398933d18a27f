"""Learned-against-forgotten figure: headline task of the domain against the general headline task."""

from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from mixcpt.report import words
from mixcpt.report.figures import labels, palette, points, svg
from mixcpt.report.summary import ModelSummary, Summary, TaskValue
from mixcpt.report.verdict import has_interval

Range: TypeAlias = tuple[float, float]

_WHOLE: Range = (-0.14, 1.14)
"""Range of all accuracies, with a margin for labels."""

_WHOLE_FROM = 0.5
"""Span of accuracies above which the axis shows the whole range."""
_MIN_SPAN = 0.08
"""Smallest span of an axis before the margin."""
_MARGIN = 1.6
"""Length of an axis as a multiple of the span of its values."""
_NAME_CHARACTERS = 28
_CORNERS = (
    (0.0, 1.0, "learned, but forgot"),
    (1.0, 1.0, "learned and kept"),
    (0.0, 0.0, "learned nothing, and forgot"),
    (1.0, 0.0, "kept, learned nothing"),
)


def save_tradeoff(summary: Summary, path: Path) -> None:
    """Write the figure to `path` (`.svg` or `.png`)."""
    svg.save(draw_tradeoff(summary), path, "tradeoff", describe_tradeoff(summary))


def draw_tradeoff(summary: Summary) -> Figure:
    """Return the figure; right means kept and up means learned, for every metric."""
    paths = _paths(summary)
    with svg.drawing():
        figure = svg.new_figure(5.8, 4.9)
        axes = figure.subplots()
        _draw_axes(axes, summary)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        obstacles = _draw_corners(axes)
        for path in paths:
            _draw_path(axes, path)
            for start, end in pairwise(path):
                obstacles += points.line_boxes(axes, start.place, end.place)
        points.label_points(axes, list(chain.from_iterable(paths)), obstacles)
    return figure


def describe_tradeoff(summary: Summary) -> str:
    """Return the figure in words."""
    values = []
    models = {"base": summary.base} | {run.name: run.final for run in summary.runs}
    for name, model in models.items():
        learned, kept = _headlines(summary, model)
        values.append(
            f"{words.shortened(name, _NAME_CHARACTERS)}: learned {words.value(learned.metric, learned.value)}, "
            f"kept {words.value(kept.metric, kept.value)}"
        )
    learned_title, kept_title = words.title(summary.headline_domain), words.title(summary.headline_general)
    return f"Learned ({learned_title}) against kept ({kept_title}). {'; '.join(values)}."


def _headlines(summary: Summary, model: ModelSummary) -> tuple[TaskValue, TaskValue]:
    """Return the results of a model on the domain's and on the general headline task."""
    return model.tasks[summary.headline_domain], model.tasks[summary.headline_general]


def _paths(summary: Summary) -> list[list[points.Point]]:
    """Return one path per run: base, pre-trained model if evaluated, final model."""
    base = _point(summary, summary.base, "base", palette.BASE_MARK)
    paths = []
    for run, mark in zip(summary.runs, palette.run_marks(len(summary.runs)), strict=True):
        path = [base, _point(summary, run.final, run.name, mark)]
        if run.pretrained:
            path.insert(1, _point(summary, run.pretrained, f"{run.name}, pre-trained", mark))
        paths.append(path)
    return paths


def _point(summary: Summary, model: ModelSummary, name: str, mark: palette.Mark) -> points.Point:
    learned, kept = _headlines(summary, model)
    return points.Point(
        name=words.shortened(name, _NAME_CHARACTERS),
        x=(kept.value, *ends(kept)),
        y=(learned.value, *ends(learned)),
        mark=mark,
        is_main=model.role != "pretrained",
    )


def _draw_axes(axes: Axes, summary: Summary) -> None:
    axes.set_title("Learned against forgotten")
    models = [summary.base]
    for run in summary.runs:
        models += [model for model in (run.pretrained, run.final) if model]
    learned, kept = zip(*(_headlines(summary, model) for model in models), strict=True)
    x_range, y_range = _ranges(kept, learned)
    axes.set_xlim(*oriented(kept[0], x_range))
    axes.set_ylim(*oriented(learned[0], y_range))
    labels.label_axes(axes, x=f"Kept: {axis_title(kept[0])}", y=f"Learned: {axis_title(learned[0])}")
    for axis, value, limits in ((axes.xaxis, kept[0], x_range), (axes.yaxis, learned[0], y_range)):
        show_unit(axis, value, limits)
    axes.axvline(kept[0].value, color=palette.RULE.light, linewidth=1.2, zorder=1)
    axes.axhline(learned[0].value, color=palette.RULE.light, linewidth=1.2, zorder=1)


def oriented(value: TaskValue, limits: Range) -> Range:
    """Return the limits so that better values are right or up."""
    low, high = limits
    return (low, high) if value.higher_is_better else (high, low)


def axis_title(value: TaskValue) -> str:
    """Return task, metric and direction of an axis."""
    task = words.shortened(words.title(value.task), 40)
    if value.metric == "accuracy":
        return f"{task}, accuracy"
    direction = "" if value.higher_is_better else " (lower is better)"
    metric = words.title(value.metric)
    return f"{task}{direction}" if metric.lower() in task.lower() else f"{task}, {metric}{direction}"


def show_unit(axis: Axis, value: TaskValue, limits: Range) -> None:
    """Show the ticks of an accuracy in percent, between 0 and 100."""
    if value.metric != "accuracy":
        return
    low, high = limits
    ticks = [0, 0.25, 0.5, 0.75, 1] if limits == _WHOLE else axis.get_ticklocs()
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


def _draw_path(axes: Axes, path: Sequence[points.Point]) -> None:
    for start, end in pairwise(path):
        axes.annotate(
            "",
            xy=end.place,
            xytext=start.place,
            arrowprops={
                "arrowstyle": "-|>",
                "color": end.mark.colour.light,
                "linewidth": 1.1,
                "linestyle": "-" if end.is_main else (0, (3, 2)),
                "shrinkA": 5,
                "shrinkB": 6,
                "alpha": 0.55,
            },
            zorder=2,
        )
    for point in path:
        points.draw_point(axes, point)


def _ranges(kept: Sequence[TaskValue], learned: Sequence[TaskValue]) -> tuple[Range, Range]:
    """Return the ranges of the two axes.

    If the metrics are the same, both ranges have the same length, so that a loss looks as large as an equal gain.
    """
    spans = _span(kept), _span(learned)
    if kept[0].metric == learned[0].metric:
        spans = max(spans), max(spans)
    return _centred(kept, spans[0]), _centred(learned, spans[1])


def value_range(values: Sequence[TaskValue]) -> Range:
    """Return the range of an axis of its own."""
    return _centred(values, _span(values))


def ends(value: TaskValue) -> Range:
    """Return the base's value plus the interval of the change; the value twice if there is no interval."""
    if not value.change or not has_interval(value.change):
        return value.value, value.value
    return value.change.base + value.change.low, value.change.base + value.change.high


def _centred(values: Sequence[TaskValue], span: float) -> Range:
    if values[0].metric == "accuracy" and span > _WHOLE_FROM:
        return _WHOLE
    low, high = _extremes(values)
    middle = (low + high) / 2
    return middle - _MARGIN * span / 2, middle + _MARGIN * span / 2


def _span(values: Sequence[TaskValue]) -> float:
    low, high = _extremes(values)
    return max(high - low, _MIN_SPAN)


def _extremes(values: Sequence[TaskValue]) -> Range:
    all_ends = list(chain.from_iterable(ends(value) for value in values))
    return min(all_ends), max(all_ends)
