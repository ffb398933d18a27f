"""The picture of a comparison: how much each contender learned against how much it kept, with intervals over seeds."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary, Row
from mixcpt.report.figures import labels, palette, svg

_MARGIN = 0.08


def draw_comparison(summary: ComparisonSummary) -> Figure:
    """Returns the figure: to the right is kept, upwards is learned, whatever the metrics."""
    points = _points(summary)
    with svg.drawing():
        figure = svg.new_figure(7.2, 5.2)
        axes = figure.subplots()
        axes.set_title("Learned against kept, all seeds")
        axes.set_xlabel(_axis_words(summary, summary.headline_general))
        axes.set_ylabel(_axis_words(summary, summary.headline_domain))
        axes.axvline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        axes.axhline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        for point in points:
            _draw_point(axes, point)
        axes.margins(_MARGIN)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        named = [
            labels.Label(point.name, point.x[0], point.y[0], point.colour, point.weight, 9.5)
            for point in sorted(points, key=lambda point: not point.is_on_front)
        ]
        labels.place(axes, named, [box for point in points for box in _boxes(axes, point)])
    return figure


@dataclass(frozen=True)
class _Point:
    """One contender in the picture: value, low and high on both axes."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    mark: palette.Mark
    is_on_front: bool

    @property
    def colour(self) -> str:
        return self.mark.colour.light

    @property
    def weight(self) -> str:
        return "bold" if self.is_on_front else "normal"


def _points(summary: ComparisonSummary) -> list[_Point]:
    return [
        _Point(
            words.shortened(row.contender, 30),
            _scaled(row.changes[summary.headline_general]),
            _scaled(row.changes[summary.headline_domain]),
            mark,
            row.is_on_front,
        )
        for row, mark in zip(summary.rows, palette.run_marks(len(summary.rows)), strict=True)
    ]


def _scaled(change: SeedsDelta) -> tuple[float, float, float]:
    """Returns value, low and high so that more is better, accuracy in points."""
    sign = (100 if change.metric == "accuracy" else 1) * (1 if change.higher_is_better else -1)
    low, high = sorted((sign * change.low, sign * change.high))
    return sign * change.delta, low, high


def _axis_words(summary: ComparisonSummary, task: str) -> str:
    change = summary.rows[0].changes[task]
    unit = words.unit(change.metric) + ("" if change.higher_is_better else " saved")
    return f"{words.shortened(words.title(task), 40)}: change to the base, {unit}"


def _draw_point(axes: Axes, point: _Point) -> None:
    (x, left, right), (y, down, up) = point.x, point.y
    axes.plot([left, right], [y, y], color=point.colour, linewidth=1.0, zorder=2)
    axes.plot([x, x], [down, up], color=point.colour, linewidth=1.0, zorder=2)
    face = point.colour if point.is_on_front else palette.PAGE.light
    axes.plot([x], [y], marker=point.mark.shape, markersize=9, color=point.colour, markerfacecolor=face, zorder=3)


def _boxes(axes: Axes, point: _Point) -> list[Bbox]:
    """Returns what labels keep off: the whiskers, in display units."""
    (x, left, right), (y, down, up) = point.x, point.y
    boxes = []
    for corner, opposite in (((left, y), (right, y)), ((x, down), (x, up))):
        (x0, y0), (x1, y1) = axes.transData.transform([corner, opposite])
        boxes.append(Bbox.from_extents(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return boxes


def describe_comparison(summary: ComparisonSummary) -> str:
    """Returns the picture in words."""

    def said(row: Row, task: str) -> str:
        return words.change(row.changes[task].metric, row.changes[task].delta)

    parts = [
        f"{words.printable(row.contender)}: learned {said(row, summary.headline_domain)}, "
        f"kept {said(row, summary.headline_general)}"
        for row in summary.rows
    ]
    return f"Change to the base, learned and kept, of every contender. {'; '.join(parts)}."
