"""The picture of a search: learned against kept, and the score against each setting."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.records.search import Advice, Attempt
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary
from mixcpt.report.figures import palette, svg

_LOGARITHMIC = ("learning_rate",)
_MOST_TICKS = 4


def draw_advice(advice: Advice, summary: ComparisonSummary) -> Figure:
    """Returns the figure: one panel for the trade-off, one for each setting; the best training is filled."""
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
    """Returns the picture in words."""
    best = advice.best
    point = ", ".join(f"{words.SETTINGS[name]} {value:.3g}" for name, value in best.point.items())
    return f"{len(advice.attempts)} trainings by what they learned and kept, and their score by setting. Best: {point}."


def front(attempts: tuple[Attempt, ...], learns: int, keeps: int) -> list[Attempt]:
    """Returns the trainings that no other beats in both headline tasks, by what they kept.

    Args:
        attempts: All trainings.
        learns: 1 where more is better in the domain's task, else -1.
        keeps: The same of the general one.
    """
    found: list[Attempt] = []
    for one in sorted(attempts, key=lambda one: (-keeps * one.general, -learns * one.domain)):
        if not found or learns * one.domain > learns * found[-1].domain:
            found.append(one)
    return found


def _draw_tradeoff(axes: Axes, advice: Advice, summary: ComparisonSummary) -> None:
    domain, general = (summary.rows[0].changes[task] for task in (summary.headline_domain, summary.headline_general))
    axes.set_title("Learned against kept, selection questions")
    axes.set_xlabel(_axis(general))
    axes.set_ylabel(_axis(domain))
    line = front(advice.attempts, *(1 if change.higher_is_better else -1 for change in (domain, general)))
    scale = [100 if change.metric == "accuracy" else 1 for change in (general, domain)]
    axes.plot(
        [scale[0] * one.general for one in line],
        [scale[1] * one.domain for one in line],
        color=palette.MUTED.light,
        linewidth=1.0,
        zorder=1,
    )
    for number, one in enumerate(advice.attempts):
        _mark(axes, scale[0] * one.general, scale[1] * one.domain, number == 0, one is advice.best)


def _draw_slice(axes: Axes, advice: Advice, name: str) -> None:
    axes.set_xlabel(words.SETTINGS[name])
    if name in _LOGARITHMIC:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # its own writes powers in TeX
    else:
        axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS))
    for number, one in enumerate(advice.attempts):
        _mark(axes, one.point[name], one.score, number == 0, one is advice.best)


def _mark(axes: Axes, x: float, y: float, is_given: bool, is_best: bool) -> None:
    mark = palette.BASE_MARK if is_given else palette.run_marks(1)[0]
    face = mark.colour.light if is_best or is_given else palette.PAGE.light
    axes.plot(
        [x], [y], marker=mark.shape, markersize=9 if is_best else 6, color=mark.colour.light, markerfacecolor=face
    )


def _axis(change: SeedsDelta) -> str:
    unit = "%" if change.metric == "accuracy" else words.unit(change.metric)
    return f"{words.shortened(words.title(change.task), 40)}, {unit}"
