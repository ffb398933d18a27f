"""Several trainings, as many at a time as the settings allow."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from mixcpt.records.run import RunResult
from tasks.hooks import remember_process
from tasks.stage_groups import stage_groups_in_threads
from tasks.trials import Trial, run_trial


@flow(
    name="trials",
    flow_run_name="{purpose}",
    validate_parameters=False,
    on_running=[remember_process],
)
def trials(purpose: str, given: list[Trial], parent: str, retries: int) -> list[RunResult]:
    """Returns the results of some trainings, in their order, each tracked below the run `parent`."""
    one = run_trial.with_options(retries=retries)
    with stage_groups_in_threads():
        futures = [one.submit(trial, parent) for trial in given]
        return [future.result() for future in futures]


def run_trials(purpose: str, given: list[Trial], *, parent: str, retries: int, jobs: int) -> list[RunResult]:
    """Returns the results of `trials`, `jobs` of them at a time; without any trial no flow is run."""
    if not given:
        return []
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=jobs)
    limited = trials.with_options(task_runner=runner)  # type: ignore[arg-type]
    return limited(purpose, given, parent, retries)
