"""Follows a worker process: its events, measurements, log and resources, and the MLflow run of its stage."""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

from prefect.logging import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler

from mixcpt.process.metrics import PREFIX, ProcessMetrics
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Started, read_events
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.spool import Measurement, Spool, complete_lines, spool_of
from tasks.adaptation import Adaptation
from tasks.progress import ProgressReport
from tasks.stage_runs import StageRun, begin_stage, close_run, forward, record_stage
from tasks.terminal import FORWARDED

SAMPLE_SECONDS = 15.0
FORWARD_SECONDS = 10.0
"""Time between requests with new measurements; a request costs a server as much as a step of a small model."""
PROGRESS_SECONDS = 30.0
"""Time between measurements of the progress."""
Results = dict[str, ArtifactRef]
_recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
"""Thread that records finished stages in order while the next ones are computed; the process waits for it at exit."""
_recordings: defaultdict[str, list[Future[str | None]]] = defaultdict(list)
"""Recordings by parent run, so that an error concerns only its own trial of a comparison."""
_LINE = re.compile(r"^[\d-]{10} [\d:]{8},\d{3} (?P<name>\S+) (?P<level>[A-Z]+) (?P<message>.*)$")
_LINES_PER_SECOND = 3.0
_BURST = 20.0
_MAX_CHARACTERS = 1000

Report = Callable[[int, str], None]


class BatchWatch:
    """Follows the process of a batch; `tick` must be called about every second."""

    def __init__(self, adaptation: Adaptation, batch: Batch, report: ProgressReport, *, devices: Sequence[str]) -> None:
        self.adaptation = adaptation
        self.batch = batch
        self.report = report
        self.devices = devices
        self.results: Results = {}
        self.failure: Failed | None = None
        self.jobs = {job.name: job for job in batch.jobs}
        self.events_read = 0
        self.log = WorkerLog(batch.log)
        self.process_metrics: ProcessMetrics | None = None
        self.stage: StageWatch | None = None

    def begin(self, process_id: int) -> None:
        """Set the process whose descendants do the work."""
        self.process_metrics = ProcessMetrics(process_id, self.devices)

    def tick(self) -> None:
        self.log.forward()
        if self.stage:
            self.stage.sample(self.process_metrics)
            self.stage.forward()
        events, self.events_read = read_events(self.batch.events, self.events_read)
        for event in events:
            match event:
                case Started(job=name, fingerprint=key, spool=spool):
                    job = self.jobs[name].resolve(self.results)
                    self.stage = StageWatch(self.adaptation, job, key, spool=Spool(spool), report=self.report)
                case Finished(job=name, ref=ref):
                    self._finish(name, ref)
                case Failed():
                    self.failure = event

    def close(self, status: str) -> None:
        """End the MLflow run of a stage that did not finish."""
        self.log.finish()
        if self.stage:
            self.stage.forward(at_once=True)
            self.report.finish("stopped" if status == "KILLED" else "failed", whole=False)
            close_run(self.adaptation.tracking, self.stage.run_id, status)

    def _finish(self, name: str, ref: ArtifactRef) -> None:
        if self.stage:
            self.stage.forward()
            self.report.finish(f"finished after {ref.record['seconds']:.0f} s")
        begun = self.stage.begun if self.stage else None
        record(self.adaptation, self.jobs[name].resolve(self.results), ref, begun=begun)
        self.stage = None
        self.results[name] = ref


def record(adaptation: Adaptation, job: Job, ref: ArtifactRef, *, begun: StageRun | None = None) -> None:
    """Start to finish the MLflow run of a published stage in the background; see `wait_until_recorded`.

    `begun` is the run that this process opened for the stage; without it, the run is looked up in MLflow.
    """
    spool = spool_of(adaptation.store.root, ref.kind, ref.fingerprint)
    tracking, parent, tags = adaptation.tracking, adaptation.run_id, adaptation.tags

    def finish() -> str | None:
        return record_stage(tracking, job, ref, spool, parent=parent, tags=tags, begun=begun)

    context = copy_context()  # log lines of the thread belong to this flow run
    _recordings[parent].append(_recorder.submit(context.run, finish))


def wait_until_recorded(adaptation: Adaptation) -> None:
    """Wait until all stages of an adaptation that finished in this process are recorded, or MLflow is unreachable.

    Raises:
        Exception: If a recording failed; its error.
    """
    for recording in tuple(_recordings[adaptation.run_id]):
        recording.result()


class StageWatch:
    """Forwards the spools of one stage from their beginning; steps that an earlier attempt logged are skipped."""

    def __init__(self, adaptation: Adaptation, job: Job, key: str, *, spool: Spool, report: ProgressReport) -> None:
        self.tracking = adaptation.tracking
        self.spool = spool
        self.report = report
        self.offset = 0
        self.flow_offset = 0
        self.pending: list[Measurement] = []
        self.next_forward = 0.0
        self.next_sample = time.monotonic() + SAMPLE_SECONDS
        self.next_progress = time.monotonic() + PROGRESS_SECONDS
        report.start(job.name)
        self.begun = begin_stage(self.tracking, job, key, parent=adaptation.run_id, tags=adaptation.tags)
        self.run_id, self.last_steps = self.begun or StageRun("", {})
        self.num_samples = next_sample_number(spool.flow_spool, self.last_steps)

    def sample(self, process_metrics: ProcessMetrics | None) -> None:
        """Measure the resources of the process if it is time for that."""
        if process_metrics and time.monotonic() >= self.next_sample:
            self.next_sample = time.monotonic() + SAMPLE_SECONDS
            self.spool.flow_spool.log(self.num_samples, process_metrics.sample())
            self.num_samples += 1

    def forward(self, *, at_once: bool = False) -> None:
        """Show new measurements, and log them in MLflow if it is time for that or `at_once` is set."""
        fresh, self.offset = self.spool.read(self.offset)
        if fresh:
            self.report.show(fresh)
            self._measure_progress(fresh[-1])
        of_flow, self.flow_offset = self.spool.flow_spool.read(self.flow_offset)
        self.pending += [*fresh, *of_flow]
        if not self.run_id or not self.pending or (time.monotonic() < self.next_forward and not at_once):
            return
        self.next_forward = time.monotonic() + FORWARD_SECONDS
        if forward(self.tracking, self.run_id, self.pending, last_steps=self.last_steps):
            self.pending = []

    def _measure_progress(self, last: Measurement) -> None:
        if last.total_steps and time.monotonic() >= self.next_progress:
            self.next_progress = time.monotonic() + PROGRESS_SECONDS
            figures = progress_figures(last, self.report.pace.seconds_left(last.total_steps))
            self.spool.flow_spool.log(last.step, figures)


def progress_figures(last: Measurement, seconds_left: float | None) -> dict[str, float]:
    """Return the progress of a stage as metrics; unknown ones are absent."""
    percent = {"progress/percent": round(100 * last.step / last.total_steps, 2)} if last.total_steps else {}
    return percent | ({} if seconds_left is None else {"progress/eta_seconds": round(seconds_left)})


def next_sample_number(flow_spool: Spool, last_steps: dict[str, int]) -> int:
    """Return the number of the next sample of resources, counted over all attempts of a stage."""
    logged = [step for name, step in last_steps.items() if name.startswith(PREFIX)]
    spooled = [line.step for line in flow_spool.read()[0] if any(name.startswith(PREFIX) for name in line.metrics)]
    return max([*logged, *spooled], default=-1) + 1


class WorkerLog:
    """Forwards new lines of a log file, a few per second; further lines are only counted."""

    def __init__(self, path: Path, report: "Report | None" = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.report = report or run_log()
        self.clock = clock
        self.offset = 0
        self.allowed = _BURST
        self.refilled_at = clock()
        self.num_skipped = 0

    def forward(self) -> None:
        """Forward the new complete lines."""
        now = self.clock()
        self.allowed = min(_BURST, self.allowed + _LINES_PER_SECOND * (now - self.refilled_at))
        self.refilled_at = now
        lines, self.offset = complete_lines(self.path, self.offset)
        for line in lines.decode(errors="replace").splitlines():
            if (parsed := parse(line)) and self.allowed < 1:
                self.num_skipped += 1
            elif parsed:
                self._report_skipped()
                self.allowed -= 1
                self.report(*parsed)

    def finish(self) -> None:
        """Forward the remaining lines and report the number of skipped ones."""
        self.forward()
        self._report_skipped()

    def _report_skipped(self) -> None:
        if self.num_skipped:
            self.report(logging.INFO, f"({self.num_skipped} more lines are in {self.path})")
            self.num_skipped = 0


def parse(line: str) -> tuple[int, str] | None:
    """Return level and text of a line to forward; None for other lines, such as a traceback."""
    match = _LINE.match(line)
    if match is None:
        return None
    name, level = match["name"], logging.getLevelNamesMapping().get(match["level"], logging.NOTSET)
    is_own = name == "mixcpt" or name.startswith("mixcpt.")
    if level < (logging.INFO if is_own else logging.WARNING):
        return None
    return level, f"{name}: {match['message']}"[:_MAX_CHARACTERS]


def run_log() -> Report:
    """Return a function that logs to the current run on the server, and hide its records on the terminal."""
    for name in ("prefect", None):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler) and _is_for_terminal not in handler.filters:
                handler.addFilter(_is_for_terminal)
    logger = get_run_logger()
    return lambda level, text: logger.log(level, "%s", text, extra={FORWARDED: True})


def _is_for_terminal(record: logging.LogRecord) -> bool:
    return not hasattr(record, FORWARDED)
