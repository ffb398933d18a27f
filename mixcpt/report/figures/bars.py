"""Bars of all tasks of one metric: the base and each final model, each value with its interval."""

from collections.abc import Sequence
from statistics import NormalDist

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mixcpt.evaluate.guessing import wilson_interval
from mixcpt.report import words
from mixcpt.report.figures import palette, svg
from mixcpt.report.summary import Summary, TaskValue

_BAR_INCHES = 0.27


def metrics(summary: Summary) -> list[str]:
    """Return the distinct metrics in the order of the tasks."""
    return list(dict.fromkeys(value.metric for value in summary.base.tasks.values()))


def draw_bars(summary: Summary, metric: str) -> Figure:
    """Return the figure of all tasks with this metric."""
    tasks = [task for task, value in summary.base.tasks.items() if value.metric == metric]
    models = [summary.base, *(run.final for run in summary.runs)]
    marks = [palette.BASE_MARK, *palette.run_marks(len(summary.runs))]
    rows = len(models) + 1.3
    with svg.drawing():
        figure = svg.new_figure(5.6, _BAR_INCHES * rows * len(tasks) + 0.9)
        axes = figure.subplots()
        axes.set_title(_title(summary, metric, tasks))
        ticks = []
        for block, task in enumerate(tasks):
            base = summary.base.tasks[task]
            title = f"{words.shortened(words.title(task), 40)} ({base.group}, n = {words.count(base.n)})"
            axes.text(0, block * rows - 0.95, title, va="center", fontsize=10.5)
            for index, (model, mark) in enumerate(zip(models, marks, strict=True)):
                y = block * rows + index
                _draw_bar(axes, model.tasks[task], y, colour=mark.colour.light, confidence=summary.confidence)
                ticks.append((y, words.shortened(model.run or "base", 24)))
        _finish(axes, metric, ticks, rows * len(tasks))
    return figure


def describe_bars(summary: Summary, metric: str) -> str:
    """Return the figure in words."""
    parts = []
    for task, base in summary.base.tasks.items():
        if base.metric == metric:
            values = [f"{run.name} {words.value(metric, run.final.tasks[task].value)}" for run in summary.runs]
            parts.append(f"{words.title(task)}: base {words.value(metric, base.value)}, {', '.join(values)}")
    return "; ".join(parts) + "."


def value_interval(value: TaskValue, confidence: float) -> tuple[float, float]:
    """Return the interval of a single value; its width is 0 if there is no standard error.

    Accuracy uses Wilson's score interval, other metrics use the normal approximation.
    """
    if value.metric == "accuracy":
        return wilson_interval(value.value, value.n, confidence)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * (value.stderr or 0.0)
    return value.value - half, value.value + half


def _title(summary: Summary, metric: str, tasks: Sequence[str]) -> str:
    if metric == "accuracy":
        return "Accuracy"
    better = "higher" if summary.base.tasks[tasks[0]].higher_is_better else "lower"
    return f"{words.title(metric).capitalize()} ({better} is better)"


def _draw_bar(axes: Axes, value: TaskValue, y: float, *, colour: str, confidence: float) -> None:
    low, high = value_interval(value, confidence)
    axes.barh(y, value.value, height=0.74, color=colour, alpha=0.38)
    axes.plot([low, high], [y, y], color=colour, linewidth=1.8)
    axes.plot([value.value], [y], marker="|", markersize=10, color=colour, markeredgewidth=2)
    axes.annotate(
        words.value(value.metric, value.value),
        (max(high, value.value), y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=colour,
    )


def _finish(axes: Axes, metric: str, ticks: Sequence[tuple[float, str]], bottom: float) -> None:
    axes.set_yticks([y for y, _ in ticks], labels=[name for _, name in ticks])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(bottom - 1.7, -1.6)
    axes.spines["left"].set_color(palette.RULE.light)
    axes.grid(axis="x")
    if metric == "accuracy":
        axes.set_xlim(0, 1.16)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    else:
        axes.set_xlim(0, 1.18 * axes.get_xlim()[1])
