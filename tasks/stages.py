"""The tasks that compute the stages of an adaptation, or evaluate any model, in worker processes."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from prefect import task
from prefect.artifacts import create_table_artifact

from mixcpt.align.usable import require_usable
from mixcpt.config import EvaluateModelConfig
from mixcpt.errors import first_known
from mixcpt.evaluate import TaskDelta, compare
from mixcpt.merge.names import find_model
from mixcpt.stages.chain import (
    alignment_jobs,
    by_role,
    curation_job,
    evaluation_job,
    evaluation_jobs,
    plan_job,
    pretraining_jobs,
    preview_jobs,
)
from mixcpt.stages.jobs import JobOptions
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation, open_adaptation, track
from tasks.registry import Registry
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.stage_runs import close_run
from tasks.watching import Results, wait_until_recorded

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Call = Callable[Concatenate[Adaptation, Parameters], Result]


def stage_task(name: str) -> Callable[[Call[Parameters, Result]], Call[Parameters, Result]]:
    """Return a decorator for a Prefect task with the number of retries of the run's settings."""

    def decorate(function: Call[Parameters, Result]) -> Call[Parameters, Result]:
        prefect_task = task(name=name, retry_condition_fn=worth_retrying, retry_delay_seconds=5)(function)

        @wraps(function)
        def call(adaptation: Adaptation, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            retried = prefect_task.with_options(retries=adaptation.config.runtime.retries)
            return retried(adaptation, *args, **kwargs)  # type: ignore[return-value]

        return call

    return decorate


@stage_task("curate")
def curate(adaptation: Adaptation) -> ArtifactRef:
    """Read the sources and return the corpus: clean records, and every removal with its reason.

    Raises:
        DataError: If alignment has no sample to train on, which it would find out only after pre-training.
    """
    corpus = run_stage_group(adaptation, [curation_job(adaptation.config)])["curate"]
    require_usable(adaptation.config, adaptation.base, corpus)
    return corpus


@stage_task("preview")
def preview(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Evaluate the base model before training, without and with the documents, and return the results by role.

    The same process estimates the cost of the run, because it has to import the libraries of training anyway.
    """
    plan = plan_job(adaptation, corpus)
    results = run_stage_group(adaptation, [plan, *preview_jobs(adaptation, corpus)])
    results.pop(plan.name)
    return by_role(results)


@stage_task("mix and pretrain")
def pretrain(adaptation: Adaptation, corpus: ArtifactRef) -> Results:
    """Mix the corpus, pre-train on it, and return the artifacts by role.

    One process does all of it. With several training processes, another process makes their inputs before they start.
    """
    *preparing, training = pretraining_jobs(adaptation, corpus)
    if not adaptation.config.runtime.is_distributed:
        return by_role(run_stage_group(adaptation, [*preparing, training]))
    prepared = run_stage_group(adaptation, preparing)
    return by_role(prepared | run_stage_group(adaptation, [training.resolve(prepared)], distributed=True))


@stage_task("select, sft and dpo")
def align(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef) -> Results:
    """Align the pre-trained model to the chat form and return the artifacts by role; skipped stages are absent.

    With several training processes, another process selects the samples before they start.
    """
    model = ModelRef.from_artifact(pretrained, "pretrained")
    jobs = alignment_jobs(adaptation, corpus, model)
    if not (adaptation.config.runtime.is_distributed and jobs):
        return by_role(run_stage_group(adaptation, jobs))
    selecting, *trainings = jobs
    selected = run_stage_group(adaptation, [selecting])
    trainings = [training.resolve(selected) for training in trainings]
    return by_role(selected | run_stage_group(adaptation, trainings, distributed=True))


@stage_task("evaluate")
def evaluate(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef) -> Results:
    """Evaluate the pre-trained and the final model, and return the results by role."""
    return by_role(run_stage_group(adaptation, evaluation_jobs(adaptation, corpus, pretrained, final)))


def open_evaluation(config: EvaluateModelConfig) -> tuple[Adaptation, ModelRef]:
    """Open the MLflow run of an evaluation, as an adaptation that trains nothing, and return it and the model.

    Raises:
        ConfigError: If no model has that name.
    """
    adaptation = open_adaptation(config.settings.model_copy(update={"name": config.name}))
    name, registry = config.model, Registry(config.settings.runtime)
    model = first_known(lambda: find_model(adaptation.store, name), lambda: registry.version(name).model)
    key = fingerprint({"asked": model.digest, "form": config.form, "as": adaptation.key})
    return track(replace(adaptation, key=key)), model


@stage_task("evaluate the model")
def evaluate_any(
    adaptation: Adaptation, model: ModelRef, corpus: ArtifactRef, *, form: Literal["plain", "chat"]
) -> list[TaskDelta]:
    """Evaluate the model and the base, publish a table of the differences by task, and return the differences."""
    settings, options = adaptation.config.evaluate, JobOptions(form=form)
    base_job = evaluation_job(adaptation, corpus, "base", adaptation.base)
    model_job = evaluation_job(adaptation, corpus, "model", model, options=options)
    refs = by_role(run_stage_group(adaptation, [base_job, model_job]))
    changes = compare(
        refs["base"],
        refs["model"],
        confidence=settings.confidence,
        num_resamples=settings.num_resamples,
        seed=adaptation.config.seed,
        across_forms=True,
    )
    create_table_artifact([_row(change) for change in changes], key="evaluation", description=model.name)
    wait_until_recorded(adaptation)
    if adaptation.run_id:
        close_run(adaptation.tracking, adaptation.run_id, "FINISHED")
    return changes


def _row(change: TaskDelta) -> dict[str, Any]:
    figures = {name: round(getattr(change, name), 4) for name in ("base", "value", "delta", "low", "high")}
    return {"task": change.task, "metric": change.metric, "n": change.n} | figures
