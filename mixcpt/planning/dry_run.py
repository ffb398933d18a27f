"""A trial: the stages of a run in small, in processes of their own as a run has them, timed and measured."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from mixcpt.config import AdaptConfig
from mixcpt.errors import MixcptError
from mixcpt.planning.load import Adapting, Load
from mixcpt.planning.slices import FEW_QUESTIONS, questions, small_run
from mixcpt.process.supervisor import follow, log_tail
from mixcpt.stages.chain import EVALUATE, alignment_jobs, curation_job, evaluation_job, pretraining_jobs, preview_jobs
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Output, Started, read_events
from mixcpt.stages.worker import worker_process
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.spool import Measurement, Spool

_TICK_SECONDS = 0.2
COLD = f"{EVALUATE}cold"
"""The first evaluation of its process, which imports libraries; it asks next to nothing."""
FEW = f"{EVALUATE}few"
"""The evaluation that asks next to nothing of a trained model, when all is imported."""
OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Timed:
    """One stage of the trial."""

    seconds: float
    """Of making its artifact."""
    start_seconds: float
    """From the end of what came before it, or the start of its process, until it began."""
    seconds_after_training: float
    """From the last measurement to the end: writing a checkpoint and the model; 0 where nothing was measured."""
    measurements: tuple[Measurement, ...]
    ref: ArtifactRef

    @property
    def metrics(self) -> dict[str, int | float]:
        """The numbers of the stage's record."""
        return {name: value for name, value in self.ref.record["metrics"].items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Trial:
    """What was measured, read into memory: the store of the trial is gone by then."""

    config: AdaptConfig
    """Of the small run."""
    stages: dict[str, "Measured"]
    """By the name of the job."""


@dataclass(frozen=True)
class Measured:
    """What a stage of the trial tells of the run's."""

    seconds: float
    start_seconds: float
    seconds_after_training: float
    step_seconds: tuple[float, ...]
    """Of each training step but the first, which is slower than all others, where there are several."""
    metrics: dict[str, int | float]
    items: dict[str, int]
    """Questions that were asked, by task."""


def run_dry_run(load: Load, on_stage: OnStage = lambda stage: None) -> Trial:
    """Returns what a small run of the same settings takes on this machine; nothing of it stays on disk.

    Raises:
        MixcptError: What a stage raised.
    """
    with TemporaryDirectory(prefix="mixcpt-plan-") as folder:
        config = small_run(load.config, load.samples, Path(folder))
        adapting = Adapting(config, load.base)
        corpus, trained = Output("curate"), Output("pretrain", as_model=True)
        *reading, training = pretraining_jobs(adapting, corpus)
        first = [curation_job(config), *reading]
        found: dict[str, Timed] = {}
        if config.runtime.is_distributed:
            _run(config, first, found, on_stage)
            _run(config, [training], found, on_stage, distributed=True)
        else:
            _run(config, [*first, training], found, on_stage)
        _run(config, alignment_jobs(adapting, corpus, trained), found, on_stage)
        _run(config, _questions(adapting, trained), found, on_stage)
        return Trial(config, {name: _measured(timed) for name, timed in found.items()})


def _questions(adapting: Adapting, trained: Output) -> list[Job]:
    """Returns the evaluations: next to nothing, twice; the base as before training; and the trained model."""
    corpus = Output("curate")
    settings = adapting.config.model_copy(update={"evaluate": questions(adapting.config.evaluate, FEW_QUESTIONS)})
    few, plain = Adapting(settings, adapting.base), {"form": "plain"}
    return [
        evaluation_job(few, corpus, COLD.removeprefix(EVALUATE), adapting.base, plain),
        evaluation_job(few, corpus, FEW.removeprefix(EVALUATE), trained, plain),
        *preview_jobs(adapting, corpus),
        evaluation_job(adapting, corpus, "pretrained", trained, plain),
    ]


def _run(
    config: AdaptConfig,
    jobs: Sequence[Job],
    found: dict[str, Timed],
    on_stage: OnStage,
    *,
    distributed: bool = False,
) -> None:
    """Adds the stages of one process to `found`."""
    if not jobs:
        return
    refs = {name: timed.ref for name, timed in found.items()}
    batch = Batch.in_store(tuple(job.resolve(refs) for job in jobs), Path(config.runtime.store))
    batch.write()
    watch = _Watch(batch, on_stage)
    with worker_process(batch, config.runtime, distributed=distributed) as process:
        code = follow(process, on_tick=watch.tick, tick_seconds=_TICK_SECONDS)
    if watch.failure:
        error = watch.failure.to_error()
        raise type(error)(f"the trial failed in {watch.failure.job}: {error.problem}", error.hint)
    if code:
        problem = f"the process of the trial ended with code {code}\n{log_tail(batch.log)}"
        raise MixcptError(problem, "plan without it: --no-trial")
    found |= watch.found


class _Watch:
    """Follows a worker process and puts its stages into `found`."""

    def __init__(self, batch: Batch, on_stage: OnStage) -> None:
        self.found: dict[str, Timed] = {}
        self.failure: Failed | None = None
        self._batch = batch
        self._on_stage = on_stage
        self._read = 0
        self._last = time.time()
        self._spool: Spool | None = None

    def tick(self) -> None:
        events, self._read = read_events(self._batch.events, self._read)
        for event in events:
            match event:
                case Started(job=name, spool=spool):
                    self._spool = Spool(spool)
                    self._on_stage(name)
                case Finished(job=name, ref=ref):
                    self.found[name] = self._timed(ref)
                case Failed():
                    self.failure = event

    def _timed(self, ref: ArtifactRef) -> Timed:
        record = ref.record
        ended = datetime.fromisoformat(record["created_at"]).timestamp()
        waited = ended - record["seconds"] - self._last
        self._last = ended
        measured = tuple(self._spool.read()[0]) if self._spool else ()
        after = ended - measured[-1].time_seconds if measured else 0.0
        return Timed(record["seconds"], max(waited, 0.0), max(after, 0.0), measured, ref)


def _measured(timed: Timed) -> Measured:
    times = [each.time_seconds for each in timed.measurements]
    windows = [each.metrics["train/seconds"] for each in timed.measurements if "train/seconds" in each.metrics]
    steps = windows[1:] or windows or [later - earlier for earlier, later in pairwise(times)]
    summary = timed.ref.file("summary.json")
    tasks = json.loads(summary.read_text())["tasks"] if summary.is_file() else []
    return Measured(
        timed.seconds,
        timed.start_seconds,
        timed.seconds_after_training,
        tuple(steps),
        timed.metrics,
        {task["task"]: task["n"] for task in tasks},
    )
