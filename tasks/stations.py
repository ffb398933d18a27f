"""Runs the stages of a station: what the store has is taken from it, the rest is computed in one supervised process."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectNotFound

from mixcpt.artifacts import ArtifactRef
from mixcpt.errors import MixcptError, StageInterrupted
from mixcpt.jobs import Batch, Failed, Finished, Job, Output, Started, read_events
from mixcpt.supervisor import run_supervised
from mixcpt.tracking import Measurement, Spool
from mixcpt.worker import lookup, may_be_stored, worker_command, worker_environment
from tasks.adaptation import Adaptation
from tasks.lineage import begin_stage, close_flow_run, close_run, forward, record_stage
from tasks.progress import ProgressReport, progress_report

_CANCEL_POLL_SECONDS = 15.0
_LOG_LINES = 15
_stopping = threading.Event()
"""Set when a flow whose stations run in threads is interrupted: the signal reaches the main thread alone."""
Results = dict[str, ArtifactRef]


def worth_retrying(task: "Task[..., object]", task_run: TaskRun, state: State[object]) -> bool:
    """Returns whether another try can end otherwise: after a killed process yes, after bad data no."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MixcptError) and error.retryable


@contextmanager
def stations_in_threads() -> Iterator[None]:
    """Ends the stations that run in other threads when what waits for them is interrupted or fails."""
    _stopping.clear()
    try:
        yield
    except BaseException:
        _stopping.set()
        raise


def run_station(adaptation: Adaptation, jobs: Sequence[Job], *, distributed: bool = False) -> Results:
    """Returns the artifact of each job by its name, each computed only where the store has none.

    Raises:
        MixcptError: The very error of the stage.
        StageInterrupted: If its process died; trying again resumes.
    """
    results, missing = ask(adaptation, jobs)
    for job in jobs:
        if job.name in results:
            _record(adaptation, job.resolve(results), results[job.name])
    if missing:
        results |= _compute(adaptation, tuple(missing), distributed)
    return results


def ask(adaptation: Adaptation, jobs: Sequence[Job]) -> tuple[Results, list[Job]]:
    """Returns what the store has already, and the jobs that are left, what is known filled in."""
    store = adaptation.store
    results: Results = {}
    missing: list[Job] = []
    waiting: set[str] = set()
    for job in jobs:
        unknown = {value.job for value in job.inputs.values() if isinstance(value, Output)} & waiting
        known = job.resolve(results)
        found = None if unknown or not may_be_stored(known, store) else lookup(known, store)
        if isinstance(found, ArtifactRef):
            results[job.name] = found
        else:
            waiting.add(job.name)
            missing.append(known)
    return results, missing


def _compute(adaptation: Adaptation, jobs: tuple[Job, ...], distributed: bool) -> Results:
    runtime = adaptation.config.runtime
    batch = Batch.in_store(jobs, adaptation.store.root)
    batch.write()
    launch = (runtime.num_processes, runtime.launcher) if distributed else ()
    cancelled = _CancelWatch(adaptation.root_flow_run_id)
    with progress_report() as report:
        watch = _Watch(adaptation, batch, report)
        try:
            code = run_supervised(
                worker_command(batch, *launch),
                log_path=batch.log,
                environment=worker_environment(runtime.num_threads),
                on_tick=watch.tick,
                timeout_seconds=runtime.timeout_seconds,
                should_stop=cancelled,
            )
        except BaseException:
            watch.close("KILLED")
            raise
        if cancelled.seen:
            watch.close("KILLED")
            close_flow_run(adaptation.tracking, adaptation.root_flow_run_id, "KILLED")
            raise MixcptError(f"{jobs[0].name} was stopped: the flow run {cancelled.seen}")
        if code or watch.failure:
            watch.close("FAILED")
            raise _error(watch.failure, code, batch.log)
    return watch.results


class _Watch:
    """Follows a worker process: its events, its measurements, and the MLflow run of the stage it is in."""

    def __init__(self, adaptation: Adaptation, batch: Batch, report: ProgressReport) -> None:
        self.adaptation = adaptation
        self.batch = batch
        self.report = report
        self.results: Results = {}
        self.failure: Failed | None = None
        self.jobs = {job.name: job for job in batch.jobs}
        self.events_read = 0
        self.stage: _StageUnderWay | None = None

    def tick(self) -> None:
        if self.stage:
            self.stage.forward()
        events, self.events_read = read_events(self.batch.events, self.events_read)
        for event in events:
            match event:
                case Started(job=name, fingerprint=key, spool=spool):
                    job = self.jobs[name].resolve(self.results)
                    self.stage = _StageUnderWay(self.adaptation, job, key, Spool(spool), self.report)
                case Finished(job=name, ref=ref):
                    self._finish(name, ref)
                case Failed():
                    self.failure = event

    def close(self, status: str) -> None:
        """Ends the MLflow run of a stage that did not finish."""
        if self.stage:
            self.stage.forward()
            self.report.finish("stopped" if status == "KILLED" else "failed")
            close_run(self.adaptation.tracking, self.stage.run_id, status)

    def _finish(self, name: str, ref: ArtifactRef) -> None:
        if self.stage:
            self.stage.forward()
            self.report.finish(f"finished after {ref.record['seconds']:.0f} s")
        self.stage = None
        _record(self.adaptation, self.jobs[name].resolve(self.results), ref)
        self.results[name] = ref


class _StageUnderWay:
    """Forwards the spool of one stage, from its beginning: what an earlier attempt logged is skipped."""

    def __init__(self, adaptation: Adaptation, job: Job, key: str, spool: Spool, report: ProgressReport) -> None:
        self.tracking = adaptation.tracking
        self.spool = spool
        self.report = report
        self.read = 0
        self.pending: list[Measurement] = []
        report.start(job.name)
        begun = begin_stage(self.tracking, job, key, adaptation.run_id, adaptation.tags)
        self.run_id, self.last_steps = begun or ("", {})

    def forward(self) -> None:
        fresh, self.read = self.spool.read(self.read)
        self.pending += fresh
        if fresh:
            self.report.show(fresh[-1])
        if self.run_id and self.pending and forward(self.tracking, self.run_id, self.pending, self.last_steps):
            self.pending = []


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
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(self.flow_run_id).state  # type: ignore[arg-type]
        except (httpx.HTTPError, ObjectNotFound):
            return ""
        return f"became {state.name} elsewhere" if state and (state.is_final() or state.is_cancelling()) else ""


def _record(adaptation: Adaptation, job: Job, ref: ArtifactRef) -> None:
    spool = Spool(adaptation.store.root / "work" / "spools" / f"{ref.kind}-{ref.short}.jsonl")
    record_stage(adaptation.tracking, job, ref, spool, adaptation.run_id, adaptation.tags)


def _error(failure: Failed | None, code: int, log: Path) -> MixcptError:
    """Returns the error of a stage: its own where it raised one on purpose, else with the end of its log."""
    if failure is None:
        problem, hint = (
            f"the process of a stage ended with code {code}",
            "the next try goes on from the last checkpoint",
        )
        return StageInterrupted(f"{problem}\n{_tail(log)}", hint)
    error = failure.to_error()
    if type(error) in (MixcptError, StageInterrupted):
        return type(error)(f"{error.problem}\n{_tail(log)}", error.hint)
    return error


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join([f"the end of {log}:", *(f"  | {line}" for line in lines)])
