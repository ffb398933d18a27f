"""Follows a worker process: its events, its measurements, its log, what it uses, and the MLflow run of its stage."""

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
from tasks.stage_runs import begin_stage, close_run, forward, record_stage
from tasks.worker_log import WorkerLog

SAMPLE_SECONDS = 15.0
FORWARD_SECONDS = 10.0
"""How often MLflow gets what was measured since; each time costs a server what a small model's step does."""
PROGRESS_SECONDS = 30.0
"""How often MLflow is told how far a stage is."""
Results = dict[str, ArtifactRef]
_recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
"""Tells MLflow of finished stages, one after the other, while the next ones are computed; a process ends after it."""
_recordings: defaultdict[str, list[Future[str | None]]] = defaultdict(list)
"""By the MLflow run that they belong to: what goes wrong for one trial of a comparison is not another's failure."""


class Watch:
    """Follows the process of a batch; `tick` is to be called every second or so."""

    def __init__(self, adaptation: Adaptation, batch: Batch, report: ProgressReport, devices: Sequence[str]) -> None:
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
        self.stage: _StageUnderWay | None = None

    def begin(self, process_id: int) -> None:
        """Notes below which process the work is done."""
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
                    self.stage = _StageUnderWay(self.adaptation, job, key, Spool(spool), self.report)
                case Finished(job=name, ref=ref):
                    self._finish(name, ref)
                case Failed():
                    self.failure = event

    def close(self, status: str) -> None:
        """Ends the MLflow run of a stage that did not finish."""
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
        record(self.adaptation, self.jobs[name].resolve(self.results), ref, begun)
        self.stage = None
        self.results[name] = ref


def record(adaptation: Adaptation, job: Job, ref: ArtifactRef, begun: tuple[str, dict[str, int]] | None = None) -> None:
    """Completes the MLflow run of a stage whose artifact is published, in the background; see `wait_until_recorded`.

    Args:
        adaptation: The run that it belongs to.
        job: The stage.
        ref: Its artifact.
        begun: As in `record_stage`.
    """
    spool = spool_of(adaptation.store.root, ref.kind, ref.fingerprint)
    told = (adaptation.tracking, job, ref, spool, adaptation.run_id, adaptation.tags, begun)
    context = copy_context()  # what is logged belongs to this flow run
    _recordings[adaptation.run_id].append(_recorder.submit(lambda: context.run(record_stage, *told)))


def wait_until_recorded(adaptation: Adaptation) -> None:
    """Waits until MLflow knows every stage of the run that has finished here, or is away; raises what went wrong."""
    for recording in tuple(_recordings[adaptation.run_id]):
        recording.result()


class _StageUnderWay:
    """Forwards the spools of one stage, from their beginning: what an earlier attempt logged is skipped."""

    def __init__(self, adaptation: Adaptation, job: Job, key: str, spool: Spool, report: ProgressReport) -> None:
        self.tracking = adaptation.tracking
        self.spool = spool
        self.report = report
        self.read = 0
        self.read_beside = 0
        self.pending: list[Measurement] = []
        self.next_forward = 0.0
        self.next_sample = time.monotonic() + SAMPLE_SECONDS
        self.next_progress = time.monotonic() + PROGRESS_SECONDS
        report.start(job.name)
        self.begun = begin_stage(self.tracking, job, key, adaptation.run_id, adaptation.tags)
        self.run_id, self.last_steps = self.begun or ("", {})
        self.samples = next_sample_number(spool.flow_spool, self.last_steps)

    def sample(self, process_metrics: ProcessMetrics | None) -> None:
        """Notes what the process uses, now and then."""
        if process_metrics and time.monotonic() >= self.next_sample:
            self.next_sample = time.monotonic() + SAMPLE_SECONDS
            self.spool.flow_spool.log(self.samples, process_metrics.sample())
            self.samples += 1

    def forward(self, *, at_once: bool = False) -> None:
        """Shows what was measured since, and tells MLflow where it is time, or `at_once`."""
        fresh, self.read = self.spool.read(self.read)
        if fresh:
            self.report.show(fresh)
            self._note_progress(fresh[-1])
        beside, self.read_beside = self.spool.flow_spool.read(self.read_beside)
        self.pending += [*fresh, *beside]
        if not self.run_id or not self.pending or (time.monotonic() < self.next_forward and not at_once):
            return
        self.next_forward = time.monotonic() + FORWARD_SECONDS
        if forward(self.tracking, self.run_id, self.pending, self.last_steps):
            self.pending = []

    def _note_progress(self, last: Measurement) -> None:
        if last.total_steps and time.monotonic() >= self.next_progress:
            self.next_progress = time.monotonic() + PROGRESS_SECONDS
            self.spool.flow_spool.log(
                last.step, progress_figures(last, self.report.pace.seconds_left(last.total_steps))
            )


def progress_figures(last: Measurement, seconds_left: float | None) -> dict[str, float]:
    """Returns how far a stage is, for MLflow."""
    percent = {"progress/percent": round(100 * last.step / last.total_steps, 2)} if last.total_steps else {}
    return percent | ({} if seconds_left is None else {"progress/eta_seconds": round(seconds_left)})


def next_sample_number(beside: Spool, last_steps: dict[str, int]) -> int:
    """Returns the number of the next sample of what a stage uses, counted over all of its attempts."""
    known = [step for name, step in last_steps.items() if name.startswith(PREFIX)]
    spooled = [line.step for line in beside.read()[0] if any(name.startswith(PREFIX) for name in line.metrics)]
    return max([*known, *spooled], default=-1) + 1
