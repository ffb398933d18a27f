"""Figure of a search: learned against kept, and the score against each setting."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.records.comparison import Advice, Attempt
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary
from mixcpt.report.figures import palette, svg

_LOGARITHMIC = ("learning_rate",)
_MOST_TICKS = 4


def draw_advice(advice: Advice, summary: ComparisonSummary) -> Figure:
    """Return the figure with one panel for the trade-off and one per setting; the best training is filled."""
    settings = list(advice.best.point)
    with svg.drawing():
        figure = svg.new_figure(8.4, 5.6)
        grid = figure.add_gridspec(2, len(settings), height_ratios=(3, 2))
        _draw_tradeoff(figure.add_subplot(grid[0, :]), advice, summary)
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


def _draw_tradeoff(axes: Axes, advice: Advice, summary: ComparisonSummary) -> None:
    changes = summary.rows[0].changes
    domain, general = changes[summary.headline_domain], changes[summary.headline_general]
    axes.set_title("Learned against kept, selection questions")
    axes.set_xlabel(_axis_title(general))
    axes.set_ylabel(_axis_title(domain))
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
        _mark(axes, x, y, is_given=number == 0, is_best=attempt is advice.best)


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
        _mark(axes, attempt.point[name], attempt.score, is_given=number == 0, is_best=attempt is advice.best)


def _mark(axes: Axes, x: float, y: float, *, is_given: bool, is_best: bool) -> None:
    mark = palette.BASE_MARK if is_given else palette.run_marks(1)[0]
    face = mark.colour.light if is_best or is_given else palette.PAGE.light
    axes.plot(
        [x], [y], marker=mark.shape, markersize=9 if is_best else 6, color=mark.colour.light, markerfacecolor=face
    )


def _axis_title(change: SeedsDelta) -> str:
    unit = "%" if change.metric == "accuracy" else words.unit(change.metric)
    return f"{words.shortened(words.title(change.task), 40)}, {unit}"
