"""Numbers of a report: every model of every run on every task, its change from the base and its cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any

from mixcpt.errors import ConfigError, DataError
from mixcpt.evaluate import Drift, PriorKnowledge, Retention, TaskDelta, compare, drift, prior_knowledge
from mixcpt.evaluate.statistics.deltas import Measure
from mixcpt.evaluate.statistics.estimates import Resampling
from mixcpt.evaluate.statistics.outcomes import retention
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.records.run import RunResult
from mixcpt.report.sections.provenance import Cost, Planned, planned_and_measured, stage_costs, total
from mixcpt.store.artifacts import ArtifactRef, from_fields
from mixcpt.train.metrics import TrainingMetrics

_RESERVED = ("base", "seconds")
_MEASURES: tuple[Measure, ...] = ("value", "gold")


@dataclass(frozen=True, kw_only=True)
class TaskValue:
    """Result of one model on one task."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    value: float
    stderr: float | None
    change: TaskDelta | None = None
    """Paired difference from the base; None for the base itself."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Results of one model: the base or a model of a run."""

    run: str
    """Name of the run; empty for the base."""
    role: str
    """`base`, `pretrained` or `final`."""
    form: str
    """Prompt form of the evaluation: `plain` or `chat`."""
    tasks: Mapping[str, TaskValue]
    retention: Retention | None = None
    gold: Mapping[str, TaskDelta] = field(default_factory=dict)
    """Change in bits per byte of the correct answers, by task."""
    drift: Mapping[str, Drift] = field(default_factory=dict)
    """Divergence of the predictions from the base's, by task; empty if not measured."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Promise that the loss on one task is at most `max_loss`, with the measured change."""

    task: str
    max_loss: float
    """Maximum loss as a fraction of the questions."""
    change: TaskDelta
    """Change from the base, of the pre-trained or the final model."""
    after: str
    """`pre-training`, which enforces the promise, or `alignment`, which does not."""
    share_of_change: float
    """Fraction of the trained weight change that was kept to fulfil the promise; 1 means all of it."""

    @property
    def is_kept(self) -> bool:
        return is_kept(self.change.delta, self.max_loss)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Results and cost of one run."""

    name: str
    method: str
    pretrained: ModelSummary | None
    """Results after pre-training; None if not evaluated or if it is the final model."""
    final: ModelSummary
    stages: Sequence[Cost]
    cost: Cost
    prior_knowledge: Sequence[PriorKnowledge] = ()
    """Accuracy of the base without and with the document, by domain task; empty if not measured."""
    promises: Sequence[Promise] = ()
    """Retention promises with the measured losses."""
    planned: Sequence[Planned] = ()
    """Planned and measured costs by stage; empty if the run has no plan."""
    divergence: str = ""
    """Sentence about a pre-training that diverged and returned to a checkpoint; empty if it did not."""


@dataclass(frozen=True)
class PairComparison:
    """Paired differences between the final models of two runs on the headline tasks."""

    first: str
    second: str
    changes: Sequence[TaskDelta]
    """Differences `second` minus `first`."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Numbers of the table, the figures and the page."""

    base_name: str
    base: ModelSummary
    runs: Sequence[RunSummary]
    headline_domain: str
    headline_general: str
    """General task that represents prior knowledge; empty if no task is general, so that forgetting is not measured."""
    confidence: float
    pairs: Sequence[PairComparison]

    @property
    def headlines(self) -> list[str]:
        """Headline tasks that were measured."""
        return [task for task in (self.headline_domain, self.headline_general) if task]

    @property
    def changes(self) -> list[TaskDelta]:
        """Changes of the final models of all runs on all tasks."""
        values = chain.from_iterable(run.final.tasks.values() for run in self.runs)
        return [value.change for value in values if value.change]

    @property
    def chances(self) -> dict[str, float]:
        """Accuracy of guessing by task; tasks without choices are absent."""
        return {change.task: change.chance for change in self.changes if change.chance}


def summarise(runs: Sequence[RunResult]) -> Summary:
    """Return the summary of one or more runs with the same base and the same evaluation.

    Raises:
        ConfigError: If two runs have the same name or a name is reserved.
        DataError: If the runs differ in base, tasks or headline tasks.
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
        headline_general=general_headline(runs[0]),
        confidence=evaluate.confidence,
        pairs=[_pair_comparison(runs[0], run) for run in runs[1:]],
    )


def general_headline(run: RunResult) -> str:
    """Return the general headline task of a run: the one in its settings, else the first general task, else empty."""
    base = EvaluationSummary.of(run.evaluations["base"])
    return base.general_headline(run.config.evaluate.headline_general)


def is_kept(delta: float, max_loss: float) -> bool:
    """Return whether a change in accuracy loses at most `max_loss`, up to rounding errors."""
    return -delta <= max_loss + 1e-9


def result_line(summary: Summary, seconds: float) -> str:
    """Return `RESULT ` and a JSON object with the headline values of the base and every final model.

    The key `general` is absent if forgetting was not measured.
    """

    def headline(model: ModelSummary) -> dict[str, float]:
        tasks = {"domain": summary.headline_domain, "general": summary.headline_general}
        return {name: round(model.tasks[task].value, 4) for name, task in tasks.items() if task}

    result: dict[str, Any] = {"base": headline(summary.base)}
    result |= {run.name: headline(run.final) for run in summary.runs}
    return "RESULT " + json.dumps(result | {"seconds": round(seconds, 1)})


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("the report has no run", "name at least one run")
    if unusable := sorted({name for name in names if name in _RESERVED or names.count(name) > 1}):
        problem = f"every run of a report needs its own name; these are reserved or used twice: {', '.join(unusable)}"
        raise ConfigError(problem, "set `name` in the settings")


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
    if different := [name for name in mine if mine[name] != theirs[name]]:
        raise DataError(
            f"{first.name} and {other.name} cannot be compared: they differ in {', '.join(different)}",
            "report each run separately, or run both with the same base, evaluation and held-out text",
        )


def _run(run: RunResult) -> RunSummary:
    stages = stage_costs(run)
    has_pretrained = "pretrained" in run.evaluations and run.final != "pretrained"
    roles = ("pretrained", "final") if has_pretrained else ("final",)
    models = {role: _compared(run, role) for role in roles}
    return RunSummary(
        name=run.name,
        method=run.config.pretrain.method.kind,
        pretrained=models.get("pretrained"),
        final=models["final"],
        stages=stages,
        cost=total(stages),
        prior_knowledge=_prior_knowledge(run),
        promises=_promises(run, models),
        planned=planned_and_measured(run, stages),
        divergence=_divergence(run),
    )


def _divergence(run: RunResult) -> str:
    outcome = TrainingMetrics.of(run.refs["pretrained"]).divergence if "pretrained" in run.refs else None
    return f"{run.name}: {outcome.sentence}." if outcome else ""


def _promises(run: RunResult, models: Mapping[str, ModelSummary]) -> list[Promise]:
    training = TrainingMetrics.of(run.refs["pretrained"]).retention if run.config.promised_tasks else None
    if training is None:
        return []
    after = {"pretrained": "pre-training", "final": "pre-training" if run.final == "pretrained" else "alignment"}
    promises = []
    for task, role in product(run.config.promised_tasks, models):
        if change := models[role].tasks[task].change:
            limit, share = run.config.pretrain.retention.max_loss, training.share_of_change
            promise = Promise(task=task, max_loss=limit, change=change, after=after[role], share_of_change=share)
            promises.append(promise)
    return promises


def _prior_knowledge(run: RunResult) -> list[PriorKnowledge]:
    if "open-book" not in run.evaluations:
        return []
    settings, evaluations = run.config.evaluate, run.evaluations
    resampling = Resampling(settings.confidence, settings.num_resamples)
    return prior_knowledge(
        evaluations["base"], evaluations["open-book"], evaluations["final"], resampling, seed=run.config.seed
    )


def _compared(run: RunResult, role: str) -> ModelSummary:
    # the base is evaluated in plain form, an aligned model in chat form
    base = run.evaluations["base"]
    changes, gold = (_differences(run, base, role, measure, across_forms=True) for measure in _MEASURES)
    return _model(run.name, role, run.evaluations[role], changes, gold)


def _differences(
    run: RunResult, other: ArtifactRef, role: str, measure: Measure = "value", *, across_forms: bool = False
) -> list[TaskDelta]:
    """Return the changes from the evaluation `other` to the evaluation of a model of `run`."""
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


def _pair_comparison(first: RunResult, second: RunResult) -> PairComparison:
    headlines = [task for task in (first.config.evaluate.headline_domain, general_headline(first)) if task]
    changes = {change.task: change for change in _differences(second, first.evaluations["final"], "final")}
    return PairComparison(first.name, second.name, [changes[task] for task in headlines])


def _model(
    run: str, role: str, evaluation: ArtifactRef, changes: Sequence[TaskDelta] = (), gold: Sequence[TaskDelta] = ()
) -> ModelSummary:
    summary = EvaluationSummary.of(evaluation)
    change_of = {change.task: change for change in changes}
    tasks = {}
    for score in sorted(summary.tasks, key=lambda score: score.group):  # domain first
        tasks[score.task] = from_fields(TaskValue, vars(score), change=change_of.get(score.task))
    return ModelSummary(
        run=run,
        role=role,
        form=summary.form,
        tasks=tasks,
        retention=retention(changes) if changes else None,
        gold={change.task: change for change in gold},
        drift={divergence.task: divergence for divergence in drift(evaluation)},
    )
