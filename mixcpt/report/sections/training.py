"""How the trainings of each run went: their curves and what their teachers said at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.report.figures.curves import Series, by_source, highest, last_values
from mixcpt.report.view import read_json
from mixcpt.stages.registry import title_of, trained_roles

DIAGNOSTICS = ("ce", "kl", "swap_rate", "teacher_accuracy", "teacher_gap")
"""Metrics of pre-training that are shown by source, where they were measured."""

_CURVES: dict[str, dict[str, str]] = {
    "pretrained": {"ce": "cross-entropy", "kl": "KL to the teacher"},
    "sft": {"loss": "loss"},
    "dpo": {"loss": "loss"},
}
_UNITS = {
    ("pretrained", "ce"): "nats per token",
    ("pretrained", "kl"): "nats per token",
    ("sft", "loss"): "nats per token",
    ("dpo", "loss"): "nats per pair",
}


@dataclass(frozen=True)
class Curve:
    """One metric of one training over its steps."""

    name: str
    """Short and unique on the page."""
    metric: str
    """Stage and metric."""
    title: str
    unit: str
    series: Series
    top: float = 0.0
    """Greatest value of this metric and stage in any run, so that the runs share a scale."""
    sources: Sequence[str] = ()
    """The sources of all runs, so that the runs share their colours."""


@dataclass(frozen=True)
class TrainingView:
    """The trainings of one run."""

    run: str
    curves: Sequence[Curve]
    diagnostics: Mapping[str, Mapping[str, float]]
    """Last measurement of pre-training by source and metric; the source `""` is all of them together."""


def trainings(runs: Sequence[RunResult]) -> list[TrainingView]:
    """Returns what each run measured while it trained."""
    views = [_training(index, run) for index, run in enumerate(runs)]
    curves = [curve for view in views for curve in view.curves]
    sources = [source for source in dict.fromkeys(source for curve in curves for source in curve.series) if source]
    tops: dict[str, float] = {}
    for curve in curves:
        tops[curve.metric] = max(tops.get(curve.metric, 0.0), highest(curve.series))
    return [
        replace(view, curves=[replace(curve, top=tops[curve.metric], sources=sources) for curve in view.curves])
        for view in views
    ]


def _training(index: int, run: RunResult) -> TrainingView:
    histories = {role: read_json(run.refs[role], "history.json") for role in trained_roles() if role in run.refs}
    curves = [
        Curve(
            f"run{index}-{role}-{metric}",
            f"{role}/{metric}",
            f"{run.name}: {title_of(role)}, {title}",
            _UNITS[role, metric],
            series,
        )
        for role, history in histories.items()
        for metric, title in _CURVES.get(role, {}).items()
        if (series := by_source(history, metric))
    ]
    return TrainingView(run.name, curves, _diagnostics(histories.get("pretrained", [])))


def _diagnostics(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for metric in DIAGNOSTICS:
        for source, value in last_values(history, metric).items():
            table.setdefault(words.printable(source), {})[metric] = value
    return table
