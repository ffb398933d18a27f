"""Figures of comparisons and searches: learned against kept, and the score against each searched setting."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.records.comparison import Advice, Attempt
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary
from mixcpt.report.figures import labels, palette, points, svg
from mixcpt.report.verdict import has_interval

_MARGIN = 0.08
_LOGARITHMIC = ("learning_rate",)
_MOST_TICKS = 4


def draw_comparison(summary: ComparisonSummary) -> Figure:
    """Return the figure; right means kept and up means learned, for every metric.

    If forgetting was not measured, it has one line per contender, and right means learned.
    """
    if not summary.headline_general:
        return _draw_learned(summary)
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
        learned, *kept = (row.changes[task] for task in summary.headlines)
        part = f"{words.printable(row.contender)}: learned {words.change(learned.metric, learned.delta)}"
        parts.append(part + "".join(f", kept {words.change(each.metric, each.delta)}" for each in kept))
    if not summary.headline_general:
        return f"Change from the base in the learned task: {'; '.join(parts)}. Forgetting was not measured."
    return f"Change from the base in what each contender learned and kept. {'; '.join(parts)}."


def _draw_learned(summary: ComparisonSummary) -> Figure:
    count = len(summary.rows)
    with svg.drawing():
        figure = svg.new_figure(7.2, 1.6 + 0.35 * count)
        axes = figure.subplots()
        axes.set_title("Learned, all seeds; forgetting was not measured")
        labels.label_axes(axes, x=_change_title(summary, summary.headline_domain))
        axes.axvline(0, color=palette.RULE.light, linewidth=1.2, zorder=1)
        for place, (row, mark) in enumerate(zip(summary.rows, palette.run_marks(count), strict=True)):
            name, learned = words.shortened(row.contender, 30), _scaled(row.changes[summary.headline_domain])
            points.draw_point(axes, points.Point(name=name, x=learned, y=(float(place),) * 3, mark=mark, is_main=True))
        axes.set_yticks(range(count), [words.shortened(row.contender, 30) for row in summary.rows])
        axes.set_ylim(count - 0.5, -0.5)
        axes.margins(x=_MARGIN)
    return figure


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
    """Return value, low and high so that more is better, accuracy in points; the value thrice without an interval."""
    sign = (100 if change.metric == "accuracy" else 1) * (1 if change.higher_is_better else -1)
    if not has_interval(change):
        value = float(sign * change.delta)
        return value, value, value
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
    shown = "learned" if best.general is None else "learned against kept"
    return f"{len(advice.attempts)} trainings: {shown}, and score by setting. Best: {point}."


def front(attempts: tuple[Attempt, ...], learns: int, keeps: int) -> list[Attempt]:
    """Return the trainings that no other training exceeds in both headline tasks, best kept first.

    Args:
        attempts: All trainings, with results on both tasks.
        learns: 1 if higher is better in the domain's headline task, otherwise -1.
        keeps: 1 if higher is better in the general headline task, otherwise -1.
    """
    best: list[Attempt] = []
    for attempt in sorted(attempts, key=lambda attempt: (-keeps * _kept(attempt), -learns * attempt.domain)):
        if not best or learns * attempt.domain > learns * best[-1].domain:
            best.append(attempt)
    return best


def _kept(attempt: Attempt) -> float:
    return attempt.general or 0.0


def _draw_attempts(axes: Axes, advice: Advice, summary: ComparisonSummary) -> None:
    """Draw learned against kept or, if forgetting was not measured, against the number of the training."""
    domain, *generals = (summary.rows[0].changes[task] for task in summary.headlines)
    scale = _factor(domain)
    if generals:
        general = generals[0]
        axes.set_title("Learned against kept, selection questions")
        labels.label_axes(axes, x=_value_title(general), y=_value_title(domain), share=0.6)
        places = [_factor(general) * _kept(attempt) for attempt in advice.attempts]
        line = front(advice.attempts, *(1 if change.higher_is_better else -1 for change in (domain, general)))
        kept = [_factor(general) * _kept(attempt) for attempt in line]
        learned = [scale * attempt.domain for attempt in line]
        axes.plot(kept, learned, color=palette.MUTED.light, linewidth=1.0, zorder=1)
    else:
        axes.set_title("Learned, selection questions; forgetting was not measured")
        labels.label_axes(axes, x="training", y=_value_title(domain), share=0.6)
        places = list(range(1, len(advice.attempts) + 1))
    for number, (x, attempt) in enumerate(zip(places, advice.attempts, strict=True)):
        _draw_mark(axes, x, scale * attempt.domain, is_given=number == 0, is_best=attempt is advice.best)


def _factor(change: SeedsDelta) -> int:
    return 100 if change.metric == "accuracy" else 1


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
