"""Runs groups of stages that are not in the store: in one supervised worker process, or on another work pool."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from mixcpt.config import StageGroupConfig
from mixcpt.errors import ConfigError, MixcptError, StageInterrupted
from mixcpt.process.devices import DeviceClaim, device_environment
from mixcpt.process.supervisor import follow, log_tail
from mixcpt.stages.jobs import Batch, Failed, Job
from mixcpt.stages.launching import worker_process
from mixcpt.stages.registry import find_stage, split_finished
from tasks.adaptation import Adaptation
from tasks.progress import ProgressReport
from tasks.slots import gpus
from tasks.stage_runs import close_flow_run
from tasks.terminal import current_terminal
from tasks.watching import BatchWatch, Results, record

FLOW = "stage-group"
"""Name of the flow that runs the stages; its deployment is named after the work pool."""
_POLL_SECONDS = 2.0
_CANCEL_POLL_SECONDS = 15.0
_stopping = threading.Event()
"""Set if a flow with stage groups in threads is interrupted, because only the main thread receives the signal."""


def worth_retrying(task: "Task[..., object]", task_run: TaskRun, state: State[object]) -> bool:
    """Return whether a retry may succeed: true for a killed process, false for bad data."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MixcptError) and error.retryable


@contextmanager
def stage_groups_in_threads() -> Iterator[None]:
    """Stop the stage groups in other threads if the block fails or is interrupted."""
    _stopping.clear()
    try:
        yield
    except BaseException:
        _stopping.set()
        raise


def run_stage_group(adaptation: Adaptation, jobs: Sequence[Job], *, distributed: bool = False) -> Results:
    """Compute the jobs that are not in the store, and return the artifacts of all jobs by name.

    Raises:
        MixcptError: If a stage fails; the error of the stage.
        StageInterrupted: If its process died; a retry resumes it.
    """
    results, missing = split_finished(jobs, adaptation.store)
    for job in jobs:
        if job.name in results:
            current_terminal().open_row(adaptation.config.name, job.name).close("from the store", "dim")
            record(adaptation, job.resolve(results), results[job.name])
    if missing and adaptation.config.runtime.gpu_pool and any(find_stage(job.stage).needs_gpu for job in missing):
        results |= _run_in_pool(adaptation, missing, distributed)
    elif missing:
        results |= _compute(adaptation, tuple(missing), distributed)
    return results


def _compute(adaptation: Adaptation, jobs: tuple[Job, ...], distributed: bool) -> Results:
    batch, runtime = Batch.in_store(jobs, adaptation.store.root), adaptation.config.runtime
    cancelled = _CancelCheck(adaptation.root_flow_run_id)
    report = ProgressReport(adaptation.config.name)
    with (
        batch.in_use(),
        _claimed(adaptation, jobs, report, cancelled=cancelled, distributed=distributed) as claim,
    ):
        watch = BatchWatch(adaptation, batch, report, devices=claim.devices)
        batch.write()
        variables, locks = device_environment(runtime, claim), claim.descriptors
        worker = worker_process(batch, runtime, distributed=distributed, variables=variables, keep_open=locks)
        try:
            with worker as process:
                code = follow(
                    process,
                    on_start=watch.begin,
                    on_tick=watch.tick,
                    timeout_seconds=float(runtime.timeout_seconds),
                    should_stop=cancelled,
                )
        except BaseException:
            watch.close("KILLED")
            raise
        watch.log.finish()
        if cancelled.reason:
            watch.close("KILLED")
            close_flow_run(adaptation.tracking, adaptation.root_flow_run_id, "KILLED")
            raise cancelled.error(jobs[0].name)
        if code or watch.failure:
            watch.close("FAILED")
            raise _error(watch.failure, code, batch.log)
    return watch.results


@contextmanager
def _claimed(
    adaptation: Adaptation, jobs: Sequence[Job], report: ProgressReport, *, cancelled: "_CancelCheck", distributed: bool
) -> Iterator[DeviceClaim]:
    """Wait for the GPUs of the jobs and yield their claim, which is empty if no job uses a GPU."""
    on_gpu = [job.name for job in jobs if find_stage(job.stage).needs_gpu]
    if not on_gpu:
        yield DeviceClaim(())
        return
    began, name = time.monotonic(), on_gpu[0]

    def wait(reason: str, seconds: float) -> None:
        report.wait(f"{name} is {reason}")
        if cancelled():
            raise cancelled.error(name)
        time.sleep(seconds)

    runtime, run = adaptation.config.runtime, f"run {adaptation.config.name}"
    with gpus(runtime, run, adaptation.root_flow_run_id, wait=wait, distributed=distributed) as claim:
        report.end_wait(f"{name} has its GPUs after {time.monotonic() - began:.0f} s")
        yield claim


def _run_in_pool(adaptation: Adaptation, jobs: Sequence[Job], distributed: bool) -> Results:
    """Run jobs in a flow run on the GPU pool of the settings, wait for its end, and return the artifacts by name.

    Raises:
        ConfigError: If the pool has no deployment of the flow `stage-group`.
        StageInterrupted: If that flow run crashed; a retry resumes it.
        MixcptError: If that flow run failed, with its message, or used another store.
    """
    pool, cancelled = adaptation.config.runtime.gpu_pool, _CancelCheck(adaptation.root_flow_run_id)
    group = StageGroupConfig(
        adapt=adaptation.config,
        base=adaptation.base.to_json(),
        run_id=adaptation.run_id,
        root_flow_run_id=adaptation.root_flow_run_id,
        jobs=tuple(job.to_json() for job in jobs),
        distributed=distributed,
    )
    name = f"{adaptation.config.name}: {', '.join(job.name for job in jobs)}"
    try:
        parameters = {"config": group.model_dump(mode="json")}
        started = run_deployment(f"{FLOW}/{pool}", flow_run_name=name, parameters=parameters, timeout=0)
    except ObjectNotFound:
        hint = f"create it: mixcpt deploy --gpu-pool {pool}"
        raise ConfigError(f"runtime.gpu_pool is {pool!r}, but there is no deployment {FLOW}/{pool}", hint) from None
    state = _wait(cast(FlowRun, started), cancelled)  # a coroutine only in an asynchronous flow
    if not state.is_completed():
        error = StageInterrupted if state.is_crashed() else MixcptError
        raise error(f"{name}, on the work pool {pool}, ended as {state.name}: {state.message or 'no message'}")
    results, missing = split_finished(jobs, adaptation.store)
    if missing:
        problem = f"the work pool {pool} has computed {missing[0].name}, but its artifact is not in the store"
        raise MixcptError(problem, f"{adaptation.store.root} must be the same folder on both machines")
    return results


def _wait(flow_run: FlowRun, cancelled: Callable[[], bool]) -> State[object]:
    """Wait for the end of a flow run and return its final state; cancel it if the waiting run is cancelled."""
    try:
        while not cancelled():
            state = _state_of(flow_run.id)
            if state and state.is_final():
                return state
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _cancel(flow_run.id)
        raise
    _cancel(flow_run.id)
    raise MixcptError(f"{flow_run.name} was stopped with the flow run that waited for it")


def _state_of(flow_run: UUID) -> "State[object] | None":
    """Return the state of a flow run; None if the server is unreachable.

    Raises:
        ObjectNotFound: If the server has no such flow run.
    """
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run).state
    except httpx.HTTPError:
        return None


def _cancel(flow_run: UUID) -> None:
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:  # keep the first error
        client.set_flow_run_state(flow_run, Cancelling())


class _CancelCheck:
    """Checks from time to time whether the flow run was cancelled; an unreachable server does not count as that."""

    def __init__(self, flow_run_id: str) -> None:
        self.flow_run_id = flow_run_id
        self.next_check = time.monotonic() + _CANCEL_POLL_SECONDS
        self.reason = ""

    def __call__(self) -> bool:
        if _stopping.is_set():
            self.reason = "was interrupted"
        elif self.flow_run_id and time.monotonic() >= self.next_check:
            self.next_check = time.monotonic() + _CANCEL_POLL_SECONDS
            self.reason = self._end()
        return bool(self.reason)

    def error(self, name: str) -> MixcptError:
        """Return the error of a stage that was stopped for this reason."""
        return MixcptError(f"{name} was stopped: the flow run {self.reason}")

    def _end(self) -> str:
        try:
            state = _state_of(UUID(self.flow_run_id))
        except ObjectNotFound:
            return ""
        return f"became {state.name} elsewhere" if state and (state.is_final() or state.is_cancelling()) else ""


def _error(failure: Failed | None, code: int, log: Path) -> MixcptError:
    """Return the error of a stage; if it was not raised deliberately, with the end of the log."""
    if failure is None:
        problem = f"the process of a stage ended with code {code}\n{log_tail(log)}"
        return StageInterrupted(problem, "the next try continues from the last checkpoint")
    error = failure.to_error()
    if type(error) in (MixcptError, StageInterrupted):
        return type(error)(f"{error.problem}\n{log_tail(log)}", error.hint)
    return error
