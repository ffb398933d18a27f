"""A dry run: the stages of a small run, measured in processes of their own, as in a real run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from mixcpt.config import AdaptConfig
from mixcpt.errors import MixcptError
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.planning.load import Adapting, Load
from mixcpt.planning.slices import SHORT_QUESTIONS, dry_run_config, limit_questions
from mixcpt.process.supervisor import follow, log_tail
from mixcpt.stages.chain import EVALUATE, alignment_jobs, curation_job, evaluation_job, pretraining_jobs, preview_jobs
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Output, Started, read_events
from mixcpt.stages.launching import worker_process
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.spool import Measurement, Spool

_TICK_SECONDS = 0.2
COLD_EVALUATION = f"{EVALUATE}cold"
"""Job of the first evaluation in its process, which imports libraries; it has very few questions."""
SHORT_EVALUATION = f"{EVALUATE}short"
"""Job of an evaluation with very few questions, after all libraries are imported."""
OnStage = Callable[[str], None]
"""Callback with the name of the job that starts."""


@dataclass(frozen=True, kw_only=True)
class MeasuredStage:
    """Measurements of one stage of a dry run."""

    seconds: float = 0.0
    """Time to make the artifact."""
    start_seconds: float = 0.0
    """Time from the end of the stage before, or from the start of the process, until this stage began."""
    seconds_after_training: float = 0.0
    """Time from the last measurement to the end, in which a checkpoint and the model are written; 0 without
    measurements."""
    step_seconds: tuple[float, ...] = ()
    """Times of the training steps. The first step is slower and left out, unless it is the only one."""
    metrics: dict[str, int | float] = field(default_factory=dict)
    """Numbers among the recorded metrics of the artifact."""
    items: dict[str, int] = field(default_factory=dict)
    """Number of questions by task, for an evaluation."""


@dataclass(frozen=True)
class DryRun:
    """Measurements of a dry run; its store is removed."""

    config: AdaptConfig
    """Settings of the small run."""
    stages: dict[str, MeasuredStage]
    """Measurements by job name."""


def run_dry_run(load: Load, on_stage: OnStage = lambda stage: None) -> DryRun:
    """Run all stages with few records, steps and questions on this machine, remove their files, and return the times.

    Raises:
        MixcptError: If a stage fails.
    """
    with TemporaryDirectory(prefix="mixcpt-plan-") as folder:
        config = dry_run_config(load.config, load.samples, Path(folder))
        adapting = Adapting(config, load.base)
        corpus, trained = Output("curate"), Output("pretrain", as_model=True)
        *preparing, training = pretraining_jobs(adapting, corpus)
        runner = _Runner(config, on_stage, temporary=Path(folder) / "temporary")
        if config.runtime.is_distributed:
            runner.run([curation_job(config), *preparing])
            runner.run([training], distributed=True)
        else:
            runner.run([curation_job(config), *preparing, training])
        runner.run(alignment_jobs(adapting, corpus, trained))
        runner.run(_evaluation_jobs(adapting, trained))
        return DryRun(config, runner.stages)


def _evaluation_jobs(adapting: Adapting, trained: Output) -> list[Job]:
    """Return two evaluations with very few questions, and the evaluations of the base and the trained model."""
    corpus = Output("curate")
    few_questions = limit_questions(adapting.config.evaluate, SHORT_QUESTIONS)
    short = Adapting(adapting.config.model_copy(update={"evaluate": few_questions}), adapting.base)
    return [
        evaluation_job(short, corpus, COLD_EVALUATION.removeprefix(EVALUATE), adapting.base),
        evaluation_job(short, corpus, SHORT_EVALUATION.removeprefix(EVALUATE), trained),
        *preview_jobs(adapting, corpus),
        evaluation_job(adapting, corpus, "pretrained", trained),
    ]


class _Runner:
    """Runs batches of jobs and collects the measurements of their stages."""

    def __init__(self, config: AdaptConfig, on_stage: OnStage, *, temporary: Path) -> None:
        """Create the folder for the temporary files of the workers, which some libraries do not remove."""
        self.stages: dict[str, MeasuredStage] = {}
        self._config = config
        self._on_stage = on_stage
        self._variables = {"TMPDIR": str(temporary)}
        temporary.mkdir()
        self._refs: dict[str, ArtifactRef] = {}

    def run(self, jobs: Sequence[Job], *, distributed: bool = False) -> None:
        """Run some jobs in one process, or with `distributed` in as many as the settings say."""
        if not jobs:
            return
        runtime = self._config.runtime
        batch = Batch.in_store(tuple(job.resolve(self._refs) for job in jobs), Path(runtime.store))
        batch.write()
        watch = _Watch(batch, self._on_stage)
        with worker_process(batch, runtime, distributed=distributed, variables=self._variables) as process:
            code = follow(process, on_tick=watch.tick, tick_seconds=_TICK_SECONDS)
        if watch.failure:
            error = watch.failure.to_error()
            raise type(error)(f"the dry run failed in {watch.failure.job}: {error.problem}", error.hint)
        if code:
            problem = f"the process of the dry run ended with code {code}\n{log_tail(batch.log)}"
            raise MixcptError(problem, "plan without it: --no-dry-run")
        self._refs |= watch.refs
        self.stages |= watch.stages


class _Watch:
    """Follows a worker process and measures its stages."""

    def __init__(self, batch: Batch, on_stage: OnStage) -> None:
        self.refs: dict[str, ArtifactRef] = {}
        self.stages: dict[str, MeasuredStage] = {}
        self.failure: Failed | None = None
        self._batch = batch
        self._on_stage = on_stage
        self._offset = 0
        self._last_end = time.time()
        self._spool: Spool | None = None

    def tick(self) -> None:
        """Handle the events that the worker process wrote since the last call."""
        events, self._offset = read_events(self._batch.events, self._offset)
        for event in events:
            match event:
                case Started(job=name, spool=spool):
                    self._spool = Spool(spool)
                    self._on_stage(name)
                case Finished(job=name, ref=ref):
                    self.refs[name] = ref
                    self.stages[name] = self._measure(ref)
                case Failed():
                    self.failure = event

    def _measure(self, ref: ArtifactRef) -> MeasuredStage:
        record = ref.record
        end = datetime.fromisoformat(record["created_at"]).timestamp()
        start_seconds = end - record["seconds"] - self._last_end
        self._last_end = end
        measurements = self._spool.read()[0] if self._spool else []
        after_training = end - measurements[-1].time_seconds if measurements else 0.0
        scores = EvaluationSummary.of(ref).tasks if ref.kind == "evaluation" else ()
        return MeasuredStage(
            seconds=record["seconds"],
            start_seconds=max(start_seconds, 0.0),
            seconds_after_training=max(after_training, 0.0),
            step_seconds=_step_seconds(measurements),
            metrics={name: value for name, value in record["metrics"].items() if isinstance(value, int | float)},
            items={score.task: score.n for score in scores},
        )


def _step_seconds(measurements: Sequence[Measurement]) -> tuple[float, ...]:
    """Return the times of all steps but the first, as the training measured them, else by the times of measurements."""
    metrics = [measurement.metrics for measurement in measurements]
    step_seconds = [values["train/seconds"] for values in metrics if "train/seconds" in values]
    times = [measurement.time_seconds for measurement in measurements]
    return tuple(step_seconds[1:] or step_seconds or [later - earlier for earlier, later in pairwise(times)])
