"""Figure of a result that did not measure forgetting: the headline task of the domain, model by model."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixcpt.report import words
from mixcpt.report.figures import labels, palette, points, svg, tradeoff
from mixcpt.report.summary import ModelSummary, Summary

_MARGIN = 0.6
"""Space left and right of the first and the last model; their distance is 1."""
_NAME_CHARACTERS = 28


def draw_learned(summary: Summary) -> Figure:
    """Return the figure; the models are ordered from left to right, and up means learned, for every metric."""
    models = _models(summary)
    shown = [_point(summary, place, *model) for place, model in enumerate(models)]
    with svg.drawing():
        figure = svg.new_figure(5.8, 4.2)
        axes = figure.subplots()
        axes.set_title("Learned; forgetting was not measured")
        _draw_axes(axes, summary, [model for _, model, _ in models])
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for point in shown:
            points.draw_point(axes, point)
        points.label_points(axes, shown)
    return figure


def describe_learned(summary: Summary) -> str:
    """Return the figure in words."""
    values = [
        f"{name} {words.value(model.tasks[summary.headline_domain].metric, model.tasks[summary.headline_domain].value)}"
        for name, model, _ in _models(summary)
    ]
    return f"Learned ({words.title(summary.headline_domain)}): {', '.join(values)}. Forgetting was not measured."


def _models(summary: Summary) -> list[tuple[str, ModelSummary, palette.Mark]]:
    """Return name, results and mark of all models: first the base, then the models by run."""
    models = [("base", summary.base, palette.BASE_MARK)]
    for run, mark in zip(summary.runs, palette.run_marks(len(summary.runs)), strict=True):
        if run.pretrained:
            models.append((f"{run.name}, pre-trained", run.pretrained, mark))
        models.append((run.name, run.final, mark))
    return models


def _point(summary: Summary, place: int, name: str, model: ModelSummary, mark: palette.Mark) -> points.Point:
    learned = model.tasks[summary.headline_domain]
    return points.Point(
        name=words.shortened(name, _NAME_CHARACTERS),
        x=(float(place), float(place), float(place)),
        y=(learned.value, *tradeoff.ends(learned)),
        mark=mark,
        is_main=model.role != "pretrained",
    )


def _draw_axes(axes: Axes, summary: Summary, models: Sequence[ModelSummary]) -> None:
    learned = [model.tasks[summary.headline_domain] for model in models]
    limits = tradeoff.value_range(learned)
    axes.set_xlim(-_MARGIN, len(models) - 1 + _MARGIN)
    axes.set_xticks([])
    axes.set_ylim(*tradeoff.oriented(learned[0], limits))
    labels.label_axes(axes, y=f"Learned: {tradeoff.axis_title(learned[0])}")
    tradeoff.show_unit(axes.yaxis, learned[0], limits)
    axes.axhline(learned[0].value, color=palette.RULE.light, linewidth=1.2, zorder=1)
