"""The task that evaluates any model with the questions of some settings, against their base model."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from prefect import task
from prefect.artifacts import create_table_artifact

from mixcpt.config import EvaluateModelConfig
from mixcpt.errors import first_known
from mixcpt.evaluate import TaskDelta, compare
from mixcpt.merge.names import find_model
from mixcpt.stages.chain import EVALUATE, evaluation_job
from mixcpt.stages.jobs import JobOptions
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation, open_adaptation, track
from tasks.champion import Registry
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import close_run
from tasks.watching import wait_until_recorded


@dataclass(frozen=True)
class OpenEvaluation:
    """An evaluation in progress."""

    model: ModelRef
    adaptation: Adaptation
    """Settings of the evaluation, as an adaptation that trains nothing."""


def open_evaluation(config: EvaluateModelConfig) -> OpenEvaluation:
    """Find the model, open the MLflow run of its evaluation, and return the evaluation.

    Raises:
        ConfigError: If no model has that name.
    """
    adaptation = open_adaptation(config.settings.model_copy(update={"name": config.name}))
    registry = Registry(config.settings.runtime)
    model = first_known(
        lambda: find_model(adaptation.store, config.model), lambda: registry.version(config.model).model
    )
    key = fingerprint({"asked": model.digest, "form": config.form, "as": adaptation.key})
    return OpenEvaluation(model, track(replace(adaptation, key=key)))


@task(name="evaluate the model", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def evaluate_any(evaluation: OpenEvaluation, corpus: ArtifactRef, form: Literal["plain", "chat"]) -> list[TaskDelta]:
    """Evaluate the model and the base, publish a table of the differences by task, and return the differences."""
    adaptation, settings = evaluation.adaptation, evaluation.adaptation.config
    jobs = [
        evaluation_job(adaptation, corpus, "base", adaptation.base),
        evaluation_job(adaptation, corpus, "model", evaluation.model, options=JobOptions(form=form)),
    ]
    refs = run_stage_group(adaptation, jobs)
    changes = compare(
        refs[f"{EVALUATE}base"],
        refs[f"{EVALUATE}model"],
        confidence=settings.evaluate.confidence,
        num_resamples=settings.evaluate.num_resamples,
        seed=settings.seed,
        across_forms=True,
    )
    create_table_artifact([_row(change) for change in changes], key="evaluation", description=evaluation.model.name)
    wait_until_recorded(adaptation)
    if adaptation.run_id:
        close_run(adaptation.tracking, adaptation.run_id, "FINISHED")
    return changes


def _row(change: TaskDelta) -> dict[str, Any]:
    figures = {name: round(getattr(change, name), 4) for name in ("base", "value", "delta", "low", "high")}
    return {"task": change.task, "metric": change.metric, "n": change.n} | figures
