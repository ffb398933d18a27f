"""Figure of a comparison: learned against kept for each contender, with intervals over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary
from mixcpt.report.figures import labels, palette, svg

_MARGIN = 0.08


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One contender in the figure."""

    name: str
    x: tuple[float, float, float]
    """Change on the general headline task: value, low and high."""
    y: tuple[float, float, float]
    """Change on the headline task of the domain: value, low and high."""
    mark: palette.Mark
    is_on_front: bool

    @property
    def colour(self) -> str:
        return self.mark.colour.light


def draw_comparison(summary: ComparisonSummary) -> Figure:
    """Return the figure; right means kept and up means learned, for every metric."""
    points = _points(summary)
    with svg.drawing():
        figure = svg.new_figure(7.2, 5.2)
        axes = figure.subplots()
        axes.set_title("Learned against kept, all seeds")
        axes.set_xlabel(_axis_title(summary, summary.headline_general))
        axes.set_ylabel(_axis_title(summary, summary.headline_domain))
        axes.axvline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        axes.axhline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        for point in points:
            _draw_point(axes, point)
        axes.margins(_MARGIN)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        error_bars = chain.from_iterable(labels.cross_boxes(axes, point.x, point.y) for point in points)
        labels.place_labels(axes, _labels(points), list(error_bars))
    return figure


def describe_comparison(summary: ComparisonSummary) -> str:
    """Return the figure in words."""
    parts = []
    for row in summary.rows:
        learned, kept = row.changes[summary.headline_domain], row.changes[summary.headline_general]
        parts.append(
            f"{words.printable(row.contender)}: learned {words.change(learned.metric, learned.delta)}, "
            f"kept {words.change(kept.metric, kept.delta)}"
        )
    return f"Change from the base in what each contender learned and kept. {'; '.join(parts)}."


def _points(summary: ComparisonSummary) -> list[_Point]:
    return [
        _Point(
            name=words.shortened(row.contender, 30),
            x=_scaled(row.changes[summary.headline_general]),
            y=_scaled(row.changes[summary.headline_domain]),
            mark=mark,
            is_on_front=row.is_on_front,
        )
        for row, mark in zip(summary.rows, palette.run_marks(len(summary.rows)), strict=True)
    ]


def _scaled(change: SeedsDelta) -> tuple[float, float, float]:
    """Return value, low and high so that more is better, accuracy in points."""
    sign = (100 if change.metric == "accuracy" else 1) * (1 if change.higher_is_better else -1)
    low, high = sorted((sign * change.low, sign * change.high))
    return sign * change.delta, low, high


def _axis_title(summary: ComparisonSummary, task: str) -> str:
    change = summary.rows[0].changes[task]
    unit = words.unit(change.metric) + ("" if change.higher_is_better else " saved")
    return f"{words.shortened(words.title(task), 40)}: change from the base, {unit}"


def _draw_point(axes: Axes, point: _Point) -> None:
    (x, left, right), (y, down, up) = point.x, point.y
    axes.plot([left, right], [y, y], color=point.colour, linewidth=1.0, zorder=2)
    axes.plot([x, x], [down, up], color=point.colour, linewidth=1.0, zorder=2)
    face = point.colour if point.is_on_front else palette.PAGE.light
    axes.plot([x], [y], marker=point.mark.shape, markersize=9, color=point.colour, markerfacecolor=face, zorder=3)


def _labels(points: Sequence[_Point]) -> list[labels.Label]:
    """Return the labels of all contenders, those on the front first."""
    return [
        labels.Label(
            text=point.name,
            x=point.x[0],
            y=point.y[0],
            colour=point.colour,
            is_bold=point.is_on_front,
            size=9.5,
        )
        for point in sorted(points, key=lambda point: not point.is_on_front)
    ]
