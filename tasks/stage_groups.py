"""Runs the stages of a station: what the store has is taken from it, the rest is computed in one supervised process."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectNotFound

from mixcpt.config import RuntimeConfig
from mixcpt.errors import MixcptError, StageInterrupted
from mixcpt.process.devices import Claim, device_environment
from mixcpt.process.supervisor import follow, log_tail
from mixcpt.stages.jobs import Batch, Failed, Job
from mixcpt.stages.launching import worker_process
from mixcpt.stages.lookup import split_finished
from mixcpt.stages.registry import find_stage
from tasks.adaptation import Adaptation
from tasks.progress import ProgressReport, progress_report
from tasks.remote import run_remotely, state_of
from tasks.slots import gpus
from tasks.stage_runs import close_flow_run
from tasks.watching import Results, Watch, record

_CANCEL_POLL_SECONDS = 15.0
_stopping = threading.Event()
"""Set when a flow whose stations run in threads is interrupted: the signal reaches the main thread alone."""


def worth_retrying(task: "Task[..., object]", task_run: TaskRun, state: State[object]) -> bool:
    """Returns whether another try can end otherwise: after a killed process yes, after bad data no."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MixcptError) and error.retryable


@contextmanager
def stage_groups_in_threads() -> Iterator[None]:
    """Ends the stations that run in other threads when what waits for them is interrupted or fails."""
    _stopping.clear()
    try:
        yield
    except BaseException:
        _stopping.set()
        raise


def run_stage_group(adaptation: Adaptation, jobs: Sequence[Job], *, distributed: bool = False) -> Results:
    """Returns the artifact of each job by its name, each computed only where the store has none.

    Raises:
        MixcptError: The very error of the stage.
        StageInterrupted: If its process died; trying again resumes.
    """
    results, missing = split_finished(jobs, adaptation.store)
    for job in jobs:
        if job.name in results:
            record(adaptation, job.resolve(results), results[job.name])
    if missing and adaptation.config.runtime.gpu_pool and any(find_stage(job.stage).needs_gpu for job in missing):
        results |= _run_in_pool(adaptation, missing, distributed)
    elif missing:
        results |= _compute(adaptation, tuple(missing), distributed)
    return results


def _run_in_pool(adaptation: Adaptation, jobs: Sequence[Job], distributed: bool) -> Results:
    cancelled = _CancelWatch(adaptation.root_flow_run_id)
    run_remotely(adaptation, jobs, cancelled, distributed=distributed)
    results, missing = split_finished(jobs, adaptation.store)
    if missing:
        pool, store = adaptation.config.runtime.gpu_pool, adaptation.store.root
        problem = f"{missing[0].name} was computed on the work pool {pool}, but is not in the store"
        raise MixcptError(problem, f"{store} has to be the same folder there and here")
    return results


def _compute(adaptation: Adaptation, jobs: tuple[Job, ...], distributed: bool) -> Results:
    batch = Batch.in_store(jobs, adaptation.store.root)
    cancelled = _CancelWatch(adaptation.root_flow_run_id)
    with (
        batch.in_use(),
        progress_report() as report,
        _granted(adaptation, jobs, report, cancelled, distributed) as claim,
    ):
        watch = Watch(adaptation, batch, report, claim.devices)
        try:
            code = _run(batch, adaptation.config.runtime, claim, watch, cancelled, distributed)
        except BaseException:
            watch.close("KILLED")
            raise
        if cancelled.seen:
            watch.close("KILLED")
            close_flow_run(adaptation.tracking, adaptation.root_flow_run_id, "KILLED")
            raise _stopped(jobs[0].name, cancelled)
        if code or watch.failure:
            watch.close("FAILED")
            raise _error(watch.failure, code, batch.log)
    return watch.results


@contextmanager
def _granted(
    adaptation: Adaptation, jobs: Sequence[Job], report: ProgressReport, cancelled: "_CancelWatch", distributed: bool
) -> Iterator[Claim]:
    """Yields the GPUs that the jobs have to themselves, after waiting for them; none where no job takes one."""
    taking = [job.name for job in jobs if find_stage(job.stage).needs_gpu]
    if not taking:
        yield Claim(())
        return
    runtime, run = adaptation.config.runtime, f"run {adaptation.config.name}"
    waiting = _Waiting(report, cancelled, taking[0])
    with gpus(runtime, run, adaptation.root_flow_run_id, waiting, distributed=distributed) as claim:
        waiting.over()
        yield claim


def _run(
    batch: Batch, runtime: RuntimeConfig, claim: Claim, watch: Watch, cancelled: "_CancelWatch", distributed: bool
) -> int:
    """Returns the exit code of the batch's process."""
    batch.write()
    devices = device_environment(runtime, claim)
    try:
        with worker_process(
            batch, runtime, distributed=distributed, variables=devices, keep_open=claim.descriptors
        ) as process:
            return follow(
                process,
                on_start=watch.begin,
                on_tick=watch.tick,
                timeout_seconds=runtime.timeout_seconds,
                should_stop=cancelled,
            )
    finally:
        watch.log.finish()


def _stopped(name: str, cancelled: "_CancelWatch") -> MixcptError:
    return MixcptError(f"{name} was stopped: the flow run {cancelled.seen}")


class _Waiting:
    """Shows what a station waits for, and ends the wait when the flow run is ended from elsewhere."""

    def __init__(self, report: ProgressReport, cancelled: "_CancelWatch", name: str) -> None:
        self.report = report
        self.cancelled = cancelled
        self.name = name
        self.began = time.monotonic()

    def __call__(self, reason: str, seconds: float) -> None:
        self.report.wait(f"{self.name} is {reason}")
        if self.cancelled():
            raise _stopped(self.name, self.cancelled)
        time.sleep(seconds)

    def over(self) -> None:
        self.report.waited(f"{self.name} has its GPUs after {time.monotonic() - self.began:.0f} s")


class _CancelWatch:
    """Asks the server now and then whether the flow run was ended from elsewhere; a lost server is no answer."""

    def __init__(self, flow_run_id: str) -> None:
        self.flow_run_id = flow_run_id
        self.next_look = time.monotonic() + _CANCEL_POLL_SECONDS
        self.seen = ""

    def __call__(self) -> bool:
        if _stopping.is_set():
            self.seen = "was interrupted"
        elif self.flow_run_id and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + _CANCEL_POLL_SECONDS
            self.seen = self._ended_as()
        return bool(self.seen)

    def _ended_as(self) -> str:
        try:
            state = state_of(UUID(self.flow_run_id))
        except ObjectNotFound:
            return ""
        return f"became {state.name} elsewhere" if state and (state.is_final() or state.is_cancelling()) else ""


def _error(failure: Failed | None, code: int, log: Path) -> MixcptError:
    """Returns the error of a stage: its own where it raised one on purpose, else with the end of its log."""
    if failure is None:
        problem, hint = (
            f"the process of a stage ended with code {code}",
            "the next try goes on from the last checkpoint",
        )
        return StageInterrupted(f"{problem}\n{log_tail(log)}", hint)
    error = failure.to_error()
    if type(error) in (MixcptError, StageInterrupted):
        return type(error)(f"{error.problem}\n{log_tail(log)}", error.hint)
    return error
