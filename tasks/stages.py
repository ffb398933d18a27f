"""The tasks that compute the stages of an adaptation: each runs the missing ones of its jobs in a worker process."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from prefect import task

from mixcpt.stages.chain import (
    alignment_jobs,
    by_role,
    curation_job,
    evaluation_jobs,
    plan_job,
    pretraining_jobs,
    preview_jobs,
)
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.watching import Results

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def stage_task(
    name: str,
) -> Callable[
    [Callable[Concatenate[Adaptation, Parameters], Result]], Callable[Concatenate[Adaptation, Parameters], Result]
]:
    """Return a decorator for a Prefect task with the number of retries of the run's settings."""

    def decorate(
        function: Callable[Concatenate[Adaptation, Parameters], Result],
    ) -> Callable[Concatenate[Adaptation, Parameters], Result]:
        prefect_task = task(name=name, retry_condition_fn=worth_retrying, retry_delay_seconds=5)(function)

        @wraps(function)
        def call(adaptation: Adaptation, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            retried = prefect_task.with_options(retries=adaptation.config.runtime.retries)
            return retried(adaptation, *args, **kwargs)  # type: ignore[return-value]

        return call

    return decorate


@stage_task("curate")
def curate(adaptation: Adaptation) -> ArtifactRef:
    """Read the sources and return the corpus: clean records, and every removal with its reason."""
    return run_stage_group(adaptation, [curation_job(adaptation.config)])["curate"]


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
    """Align the pre-trained model to the chat form and return the artifacts by role; skipped stages are absent."""
    model = ModelRef.from_artifact(pretrained, "pretrained")
    return by_role(run_stage_group(adaptation, alignment_jobs(adaptation, corpus, model)))


@stage_task("evaluate")
def evaluate(adaptation: Adaptation, corpus: ArtifactRef, pretrained: ArtifactRef, final: ArtifactRef) -> Results:
    """Evaluate the pre-trained and the final model, and return the results by role."""
    return by_role(run_stage_group(adaptation, evaluation_jobs(adaptation, corpus, pretrained, final)))
