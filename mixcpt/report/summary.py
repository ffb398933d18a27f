"""The numbers of a report: every model of every run on every task, against the base, with its cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixcpt.errors import ConfigError, DataError
from mixcpt.evaluate import Drift, Known, Retention, TaskDelta, compare, drift, known
from mixcpt.evaluate.statistics.deltas import Measure
from mixcpt.evaluate.statistics.estimates import Resampling
from mixcpt.evaluate.statistics.retention import retention
from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.records.run import RunResult
from mixcpt.report.sections.costs import Cost, Planned, beside_plan, plan_of_run, stage_costs, total
from mixcpt.report.sections.promise import Promise, promises
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fields import from_fields

_RESERVED = ("base", "seconds")
_MEASURES: tuple[Measure, ...] = ("value", "gold")


@dataclass(frozen=True)
class TaskValue:
    """One model on one task."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    value: float
    stderr: float | None
    change: TaskDelta | None = None
    """The paired difference to the base; None for the base itself."""


@dataclass(frozen=True)
class ModelSummary:
    """One model: the base, or what a run made of it."""

    run: str
    """Name of the run; empty for the base."""
    role: str
    """`base`, `pretrained` or `final`."""
    form: str
    """Prompt form in which it was asked: `plain` or `chat`."""
    tasks: Mapping[str, TaskValue]
    retention: Retention | None = None
    gold: Mapping[str, TaskDelta] = field(default_factory=dict)
    """By task, the change of the bits a byte of the right answers costs."""
    drift: Mapping[str, Drift] = field(default_factory=dict)
    """By task, how far the predictions are from the base's; empty where nobody measured it."""


@dataclass(frozen=True)
class RunSummary:
    """A run: the model after pre-training where it was evaluated apart, the final one, and the price of both."""

    name: str
    method: str
    pretrained: ModelSummary | None
    final: ModelSummary
    stages: Sequence[Cost]
    cost: Cost
    known: Sequence[Known] = ()
    """What the base knew of the domain before training, by itself and with the document at hand."""
    promises: Sequence[Promise] = ()
    """What was promised not to be lost, and whether it was."""
    planned: Sequence[Planned] = ()
    """What was planned beside what was measured; empty where nobody planned."""


@dataclass(frozen=True)
class PairComparison:
    """The paired difference of two runs' final models on the headline tasks."""

    first: str
    second: str
    changes: Sequence[TaskDelta]
    """What `second` has more than `first`."""


@dataclass(frozen=True)
class Summary:
    """Everything that the table, the pictures and the page say in numbers."""

    base_name: str
    base: ModelSummary
    runs: Sequence[RunSummary]
    headline_domain: str
    headline_general: str
    confidence: float
    pairs: Sequence[PairComparison]


def summarise(runs: Sequence[RunResult]) -> Summary:
    """Returns the summary of one or more runs that adapt the same base and were measured alike.

    Raises:
        ConfigError: If the names of the runs cannot tell them apart.
        DataError: If the runs differ in base, tasks or headline tasks, so that no table can hold them both.
    """
    _check_names([run.name for run in runs])
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    evaluate = runs[0].config.evaluate
    return Summary(
        base_name=runs[0].base.name,
        base=_model("", "base", runs[0].evaluations["base"]),
        runs=[_run(run) for run in runs],
        headline_domain=evaluate.headline_domain,
        headline_general=evaluate.headline_general,
        confidence=evaluate.confidence,
        pairs=[_head_to_head(runs[0], run) for run in runs[1:]],
    )


def result_line(summary: Summary, seconds: float) -> str:
    """Returns `RESULT ` and one JSON object: headline values of the base and of each run's final model."""

    def headline(model: ModelSummary) -> dict[str, float]:
        return {
            "domain": round(model.tasks[summary.headline_domain].value, 4),
            "general": round(model.tasks[summary.headline_general].value, 4),
        }

    result: dict[str, Any] = {"base": headline(summary.base)}
    result |= {run.name: headline(run.final) for run in summary.runs}
    return "RESULT " + json.dumps(result | {"seconds": round(seconds, 1)})


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("there is no run to report", "name at least one run")
    if unusable := sorted({name for name in names if name in _RESERVED or names.count(name) > 1}):
        raise ConfigError(
            f"runs of one report need names of their own; unusable: {', '.join(unusable)}", "set `name` in the settings"
        )


def _check_comparable(first: RunResult, other: RunResult) -> None:
    def measured(run: RunResult) -> dict[str, Any]:
        settings = run.config.evaluate
        scores = EvaluationSummary.of(run.evaluations["base"]).tasks
        return {
            "base model": run.base.digest,
            "headline tasks": (settings.headline_domain, settings.headline_general),
            "results of the base": {score.task: (score.metric, score.n, score.value) for score in scores},
        }

    mine, theirs = measured(first), measured(other)
    if different := [what for what in mine if mine[what] != theirs[what]]:
        raise DataError(
            f"{first.name} and {other.name} cannot stand in one table: they differ in {', '.join(different)}",
            "report them apart, or run both with the same base, evaluation and held-out text",
        )


def _run(run: RunResult) -> RunSummary:
    stages = stage_costs(run)
    plan = plan_of_run(run)
    has_pretrained = "pretrained" in run.evaluations and run.final != "pretrained"
    models = {role: _compared(run, role) for role in (("pretrained", "final") if has_pretrained else ("final",))}
    return RunSummary(
        name=run.name,
        method=run.config.pretrain.method.kind,
        pretrained=models.get("pretrained"),
        final=models["final"],
        stages=stages,
        cost=total(stages),
        known=_known(run),
        promises=promises(run, {role: _changes(model) for role, model in models.items()}),
        planned=beside_plan(plan, stages) if plan else [],
    )


def _changes(model: ModelSummary) -> dict[str, TaskDelta]:
    return {name: value.change for name, value in model.tasks.items() if value.change}


def _known(run: RunResult) -> list[Known]:
    if "open-book" not in run.evaluations:
        return []
    settings, evaluations = run.config.evaluate, run.evaluations
    resampling = Resampling(settings.confidence, settings.num_resamples)
    return known(evaluations["base"], evaluations["open-book"], evaluations["final"], resampling, seed=run.config.seed)


def _compared(run: RunResult, role: str) -> ModelSummary:
    # a base is asked as what it is, in plain text, and a chat model as what it became
    base = run.evaluations["base"]
    changes, gold = (_differences(run, base, role, measure, across_forms=True) for measure in _MEASURES)
    return _model(run.name, role, run.evaluations[role], changes, gold)


def _differences(
    run: RunResult, other: ArtifactRef, role: str, measure: Measure = "value", *, across_forms: bool = False
) -> list[TaskDelta]:
    """Returns the changes from the evaluation `other` to that of a model of `run`."""
    settings = run.config.evaluate
    return compare(
        other,
        run.evaluations[role],
        confidence=settings.confidence,
        num_resamples=settings.num_resamples,
        seed=run.config.seed,
        across_forms=across_forms,
        measure=measure,
    )


def _head_to_head(first: RunResult, second: RunResult) -> PairComparison:
    headlines = (first.config.evaluate.headline_domain, first.config.evaluate.headline_general)
    changes = {change.task: change for change in _differences(second, first.evaluations["final"], "final")}
    return PairComparison(first.name, second.name, [changes[task] for task in dict.fromkeys(headlines)])


def _model(
    run: str, role: str, evaluation: ArtifactRef, changes: Sequence[TaskDelta] = (), gold: Sequence[TaskDelta] = ()
) -> ModelSummary:
    summary = EvaluationSummary.of(evaluation)
    change_of = {change.task: change for change in changes}
    domain_first = sorted(summary.tasks, key=lambda score: score.group)
    values = {score.task: _value(score, change_of.get(score.task)) for score in domain_first}
    return ModelSummary(
        run,
        role,
        summary.form,
        values,
        retention(changes) if changes else None,
        {change.task: change for change in gold},
        {moved.task: moved for moved in drift(evaluation)},
    )


def _value(score: TaskScore, change: TaskDelta | None) -> TaskValue:
    return from_fields(TaskValue, vars(score), change=change)
