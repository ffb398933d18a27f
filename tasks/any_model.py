"""The task that asks a model which no run of these settings made."""

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
class Asked:
    """A model that is to be asked."""

    model: ModelRef
    adaptation: Adaptation
    """The settings, as an adaptation that trains nothing."""


def open_evaluation(config: EvaluateModelConfig) -> Asked:
    """Returns what is to be asked, with its MLflow run open.

    Raises:
        ConfigError: If nothing has that name.
    """
    adaptation = open_adaptation(config.settings.model_copy(update={"name": config.name}))
    registry = Registry(config.settings.runtime)
    model = first_known(
        lambda: find_model(adaptation.store, config.model), lambda: registry.version(config.model).model
    )
    key = fingerprint({"asked": model.digest, "form": config.form, "as": adaptation.key})
    return Asked(model, track(replace(adaptation, key=key)))


@task(name="ask the model", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def ask_model(asked: Asked, corpus: ArtifactRef, form: Literal["plain", "chat"]) -> list[TaskDelta]:
    """Returns how the model differs from the base on each task, after showing it as a table."""
    adaptation, settings = asked.adaptation, asked.adaptation.config
    jobs = [
        evaluation_job(adaptation, corpus, "base", adaptation.base),
        evaluation_job(adaptation, corpus, "model", asked.model, options=JobOptions(form=form)),
    ]
    made = run_stage_group(adaptation, jobs)
    changes = compare(
        made[f"{EVALUATE}base"],
        made[f"{EVALUATE}model"],
        confidence=settings.evaluate.confidence,
        num_resamples=settings.evaluate.num_resamples,
        seed=settings.seed,
        across_forms=True,
    )
    create_table_artifact([_row(change) for change in changes], key="evaluation", description=asked.model.name)
    wait_until_recorded(adaptation)
    if adaptation.run_id:
        close_run(adaptation.tracking, adaptation.run_id, "FINISHED")
    return changes


def _row(change: TaskDelta) -> dict[str, Any]:
    figures = ("base", "value", "delta", "low", "high")
    return {"task": change.task, "metric": change.metric, "n": change.n} | {
        name: round(getattr(change, name), 4) for name in figures
    }
