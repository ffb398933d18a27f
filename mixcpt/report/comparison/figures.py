"""Figures of comparisons and searches: learned against kept, and the score against each searched setting."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.records.comparison import Advice, Attempt
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary
from mixcpt.report.figures import labels, palette, points, svg

_MARGIN = 0.08
_LOGARITHMIC = ("learning_rate",)
_MOST_TICKS = 4


def draw_comparison(summary: ComparisonSummary) -> Figure:
    """Return the figure; right means kept and up means learned, for every metric."""
    with svg.drawing():
        figure = svg.new_figure(7.2, 5.2)
        axes = figure.subplots()
        axes.set_title("Learned against kept, all seeds")
        x, y = (_change_title(summary, task) for task in (summary.headline_general, summary.headline_domain))
        labels.label_axes(axes, x=x, y=y)
        axes.axvline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        axes.axhline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        contenders = _points(summary)
        for contender in contenders:
            points.draw_point(axes, contender)
        axes.margins(_MARGIN)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        points.label_points(axes, contenders)
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


def _points(summary: ComparisonSummary) -> list[points.Point]:
    return [
        points.Point(
            name=words.shortened(row.contender, 30),
            x=_scaled(row.changes[summary.headline_general]),
            y=_scaled(row.changes[summary.headline_domain]),
            mark=mark,
            is_main=row.is_on_front,
        )
        for row, mark in zip(summary.rows, palette.run_marks(len(summary.rows)), strict=True)
    ]


def _scaled(change: SeedsDelta) -> tuple[float, float, float]:
    """Return value, low and high so that more is better, accuracy in points."""
    sign = (100 if change.metric == "accuracy" else 1) * (1 if change.higher_is_better else -1)
    low, high = sorted((sign * change.low, sign * change.high))
    return sign * change.delta, low, high


def _change_title(summary: ComparisonSummary, task: str) -> str:
    change = summary.rows[0].changes[task]
    unit = words.unit(change.metric) + ("" if change.higher_is_better else " saved")
    return f"{words.shortened(words.title(task), 40)}: change from the base, {unit}"


def draw_advice(advice: Advice, summary: ComparisonSummary) -> Figure:
    """Return the figure with one panel for the trade-off and one per setting; the best training is filled."""
    settings = list(advice.best.point)
    with svg.drawing():
        figure = svg.new_figure(8.4, 5.6)
        grid = figure.add_gridspec(2, len(settings), height_ratios=(3, 2))
        _draw_attempts(figure.add_subplot(grid[0, :]), advice, summary)
        slices = [figure.add_subplot(grid[1, column]) for column in range(len(settings))]
        for axes, name in zip(slices, settings, strict=True):
            _draw_slice(axes, advice, name)
        slices[0].set_ylabel("score")
    return figure


def describe_advice(advice: Advice) -> str:
    """Return the figure in words."""
    best = advice.best
    point = ", ".join(f"{words.SETTINGS[name]} {value:.3g}" for name, value in best.point.items())
    return f"{len(advice.attempts)} trainings: learned against kept, and score by setting. Best: {point}."


def front(attempts: tuple[Attempt, ...], learns: int, keeps: int) -> list[Attempt]:
    """Return the trainings that no other training exceeds in both headline tasks, best kept first.

    Args:
        attempts: All trainings.
        learns: 1 if higher is better in the domain's headline task, otherwise -1.
        keeps: 1 if higher is better in the general headline task, otherwise -1.
    """
    best: list[Attempt] = []
    for attempt in sorted(attempts, key=lambda attempt: (-keeps * attempt.general, -learns * attempt.domain)):
        if not best or learns * attempt.domain > learns * best[-1].domain:
            best.append(attempt)
    return best


def _draw_attempts(axes: Axes, advice: Advice, summary: ComparisonSummary) -> None:
    changes = summary.rows[0].changes
    domain, general = changes[summary.headline_domain], changes[summary.headline_general]
    axes.set_title("Learned against kept, selection questions")
    labels.label_axes(axes, x=_value_title(general), y=_value_title(domain), share=0.6)
    line = front(advice.attempts, *(1 if change.higher_is_better else -1 for change in (domain, general)))
    scale = [100 if change.metric == "accuracy" else 1 for change in (general, domain)]
    axes.plot(
        [scale[0] * attempt.general for attempt in line],
        [scale[1] * attempt.domain for attempt in line],
        color=palette.MUTED.light,
        linewidth=1.0,
        zorder=1,
    )
    for number, attempt in enumerate(advice.attempts):
        x, y = scale[0] * attempt.general, scale[1] * attempt.domain
        _draw_mark(axes, x, y, is_given=number == 0, is_best=attempt is advice.best)


def _draw_slice(axes: Axes, advice: Advice, name: str) -> None:
    axes.set_xlabel(words.SETTINGS[name])
    if name in _LOGARITHMIC:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the default formatter writes powers in TeX
    else:
        axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS))
    for number, attempt in enumerate(advice.attempts):
        _draw_mark(axes, attempt.point[name], attempt.score, is_given=number == 0, is_best=attempt is advice.best)


def _draw_mark(axes: Axes, x: float, y: float, *, is_given: bool, is_best: bool) -> None:
    mark = palette.BASE_MARK if is_given else palette.run_marks(1)[0]
    face = mark.colour.light if is_best or is_given else palette.PAGE.light
    axes.plot(
        [x], [y], marker=mark.shape, markersize=9 if is_best else 6, color=mark.colour.light, markerfacecolor=face
    )


def _value_title(change: SeedsDelta) -> str:
    unit = "%" if change.metric == "accuracy" else words.unit(change.metric)
    return f"{words.shortened(words.title(change.task), 40)}, {unit}"
