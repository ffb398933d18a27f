"""Runs several trainings, as many at a time as the settings allow."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from mixcpt.records.run import RunResult
from tasks.comparison import Trial, run_trial
from tasks.hooks import label_process
from tasks.stage_groups import stage_groups_in_threads


@flow(name="trials", flow_run_name="{purpose}", validate_parameters=False, on_running=[label_process])
def trials(purpose: str, planned: list[Trial], parent: str, retries: int) -> list[RunResult]:
    """Run trainings, tracked below the run `parent`, and return their results in the same order."""
    retried = run_trial.with_options(retries=retries)
    with stage_groups_in_threads():
        futures = [retried.submit(trial, parent) for trial in planned]
        return [future.result() for future in futures]


def run_trials(purpose: str, planned: list[Trial], *, parent: str, retries: int, jobs: int) -> list[RunResult]:
    """Run trainings, `jobs` at a time, and return their results; without trainings no flow run is created."""
    if not planned:
        return []
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=jobs)
    limited = trials.with_options(task_runner=runner)  # type: ignore[arg-type]
    return limited(purpose, planned, parent=parent, retries=retries)
