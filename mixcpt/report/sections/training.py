"""Training curves and teacher diagnostics of the runs."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from mixcpt.records.run import RunResult
from mixcpt.report import words
from mixcpt.report.view import read_json
from mixcpt.stages.registry import title_of, trained_roles
from mixcpt.train.metrics import TrainingMetrics

Series = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by source; the source `""` means all sources together."""

DIAGNOSTICS = ("ce", "kl", "swap_rate", "teacher_accuracy", "teacher_gap")
"""Metrics of pre-training that are shown by source if they were measured."""

_NAME = re.compile(r"train/(?:(?P<source>[^/]+)/)?(?P<metric>\w+)")
_CURVES = {
    "pretrained": {"ce": ("cross-entropy", "nats per token"), "kl": ("KL to the teacher", "nats per token")},
    "sft": {"loss": ("loss", "nats per token")},
    "dpo": {"loss": ("loss", "nats per pair")},
}
"""Title and unit of the shown metrics, by role and metric."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one training over its steps."""

    name: str
    """Short name, unique on the page."""
    metric: str
    """Role and metric, e.g. `pretrained/ce`."""
    title: str
    unit: str
    series: Series
    top: float = 0.0
    """Greatest value of this metric in all runs, so that the runs share a scale."""
    sources: Sequence[str] = ()
    """Sources of all runs, so that the runs share their colours."""


@dataclass(frozen=True)
class TrainingView:
    """Training curves and diagnostics of one run."""

    run: str
    curves: Sequence[Curve]
    diagnostics: Mapping[str, Mapping[str, float]]
    """Last values of pre-training by source and metric; the source `""` means all sources together."""
    padding_share: float | None = None
    """Share of padding in everything that pre-training read; None in artifacts of earlier versions."""


def trainings(runs: Sequence[RunResult]) -> list[TrainingView]:
    """Return the curves and diagnostics of all runs, with common scales and colours."""
    views = [_training(index, run) for index, run in enumerate(runs)]
    curves = list(chain.from_iterable(view.curves for view in views))
    sources = dict.fromkeys(chain.from_iterable(curve.series for curve in curves))
    named_sources = [source for source in sources if source]
    tops: dict[str, float] = {}
    for curve in curves:
        highest = max(value for _, value in chain.from_iterable(curve.series.values()))
        tops[curve.metric] = max(tops.get(curve.metric, 0.0), highest)
    comparable = []
    for view in views:
        scaled = [replace(curve, top=tops[curve.metric], sources=named_sources) for curve in view.curves]
        comparable.append(replace(view, curves=scaled))
    return comparable


def _training(index: int, run: RunResult) -> TrainingView:
    histories = {role: read_json(run.refs[role], "history.json") for role in trained_roles() if role in run.refs}
    curves = []
    for role, history in histories.items():
        for metric, (title, unit) in _CURVES.get(role, {}).items():
            if series := by_source(history, metric):
                curve = Curve(
                    name=f"run{index}-{role}-{metric}",
                    metric=f"{role}/{metric}",
                    title=f"{run.name}: {title_of(role)}, {title}",
                    unit=unit,
                    series=series,
                )
                curves.append(curve)
    share = TrainingMetrics.of(run.refs["pretrained"]).padding_share if "pretrained" in run.refs else None
    return TrainingView(run.name, curves, _diagnostics(histories.get("pretrained", [])), padding_share=share)


def _diagnostics(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for metric in DIAGNOSTICS:
        for source, points in by_source(history, metric).items():
            table.setdefault(words.printable(source), {})[metric] = points[-1][1]
    return table


def by_source(history: Sequence[Mapping[str, Any]], metric: str) -> Series:
    """Return the finite values of one metric by source, in the order in which the sources first appear."""
    series: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            match = _NAME.fullmatch(name)
            if match and match["metric"] == metric and math.isfinite(value):
                series.setdefault(match["source"] or "", []).append((int(entry["step"]), float(value)))
    if len(series) == 2:
        series.pop("", None)  # with a single source the total repeats it
    return series
