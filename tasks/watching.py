"""Follows a worker process: its events, measurements, log and resources, and the MLflow run of its stage."""

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

from mixcpt.process.metrics import PREFIX, ProcessMetrics
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Started, read_events
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.spool import Measurement, Spool, spool_of
from tasks.adaptation import Adaptation
from tasks.progress import ProgressReport
from tasks.stage_runs import StageRun, begin_stage, close_run, forward, record_stage
from tasks.worker_log import WorkerLog

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

    Args:
        adaptation: Adaptation with the parent run.
        job: Job of the stage.
        ref: Artifact of the stage.
        begun: Run that this process opened for the stage; None to look it up in MLflow.
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
