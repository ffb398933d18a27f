"""A dry run: the stages of a run with few records, steps and questions, measured in processes of their own."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from mixcpt.config import AdaptConfig, AlignConfig, CurationConfig, EvaluateConfig, FilesSource, RetentionConfig
from mixcpt.curation.records import TEXT_NAMES
from mixcpt.errors import MixcptError
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.planning.load import Load
from mixcpt.planning.samples import Sample
from mixcpt.process.supervisor import follow, log_tail
from mixcpt.records.run import Adapting
from mixcpt.stages.chain import EVALUATE, alignment_jobs, curation_job, evaluation_job, pretraining_jobs, preview_jobs
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Output, Started, read_events
from mixcpt.stages.launching import end_idle_workers, worker_process
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.spool import Measurement, Spool

_TICK_SECONDS = 0.2
_PRETRAINING_STEPS = 8
"""Optimizer steps per phase of pre-training; the first one is not timed."""
_ALIGNMENT_STEPS = 4
_MAX_ACCUMULATION = 2
"""Maximum number of micro-batches per step; more take longer and measure nothing new."""
_QUESTIONS = 64
"""Maximum number of questions per task."""
_SHORT_QUESTIONS = 2
"""Maximum number of questions per task in the evaluations that measure one-time costs."""
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
    with TemporaryDirectory(prefix="mixcpt-plan-") as folder, ExitStack() as stack:
        stack.callback(end_idle_workers)  # their log is in the folder
        config = dry_run_config(load.config, load.samples, Path(folder))
        adapting = Adapting(config, load.base)
        corpus, trained = Output("curate"), Output("pretrain", as_model=True)
        *preparing, training = pretraining_jobs(adapting, corpus)
        runner = _Runner(config, on_stage)
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
    few_questions = _limit_questions(adapting.config.evaluate, _SHORT_QUESTIONS)
    short = Adapting(adapting.config.model_copy(update={"evaluate": few_questions}), adapting.base)
    return [
        evaluation_job(short, corpus, COLD_EVALUATION.removeprefix(EVALUATE), adapting.base),
        evaluation_job(short, corpus, SHORT_EVALUATION.removeprefix(EVALUATE), trained),
        *preview_jobs(adapting, corpus),
        evaluation_job(adapting, corpus, "pretrained", trained),
    ]


class _Runner:
    """Runs batches of jobs and collects the measurements of their stages."""

    def __init__(self, config: AdaptConfig, on_stage: OnStage) -> None:
        self.refs: dict[str, ArtifactRef] = {}
        self.stages: dict[str, MeasuredStage] = {}
        self.on_stage = on_stage
        self._runtime = config.runtime

    def run(self, jobs: Sequence[Job], *, distributed: bool = False) -> None:
        """Run some jobs in one process, or with `distributed` in as many as the settings say."""
        if not jobs:
            return
        batch = Batch.in_store(tuple(job.resolve(self.refs) for job in jobs), Path(self._runtime.store))
        batch.write()
        watch = _Watch(batch, self)
        with worker_process(batch, self._runtime, distributed=distributed) as process:
            code = follow(process, on_tick=watch.tick, tick_seconds=_TICK_SECONDS)
        if watch.failure:
            error = watch.failure.to_error()
            raise type(error)(f"the dry run failed in {watch.failure.job}: {error.problem}", error.hint)
        if code:
            problem = f"the process of the dry run ended with code {code}\n{log_tail(batch.log)}"
            raise MixcptError(problem, "plan without it: --no-dry-run")


class _Watch:
    """Follows a worker process and adds its artifacts and measurements to a runner."""

    def __init__(self, batch: Batch, runner: _Runner) -> None:
        self.failure: Failed | None = None
        self._batch = batch
        self._runner = runner
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
                    self._runner.on_stage(name)
                case Finished(job=name, ref=ref):
                    self._runner.refs[name] = ref
                    self._runner.stages[name] = self._measure(ref)
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


def dry_run_config(config: AdaptConfig, samples: Sequence[Sample], folder: Path) -> AdaptConfig:
    """Write the samples below a folder and return the settings of the dry run, whose store is in the same folder."""
    num_phases = len({stream.phase for stream in config.pretrain.method.streams()})
    micro_batch_rows = config.pretrain.micro_batch_rows * config.runtime.num_processes
    batch_rows = min(config.pretrain.batch_rows, micro_batch_rows * _MAX_ACCUMULATION)
    max_tokens = _PRETRAINING_STEPS * num_phases * batch_rows * config.mixture.row_tokens
    mixture = {"total_tokens": min(config.mixture.total_tokens, max_tokens)}
    pretrain = {"batch_rows": batch_rows, "log_steps": 1, "retention": RetentionConfig()}
    return config.model_copy(
        update={
            # the samples contain no held-out documents, so others have to be held out
            "data_seed": config.data_seed + 1,
            "curation": _write_sources(config.curation, samples, folder / "sources"),
            "mixture": config.mixture.model_copy(update=mixture),
            "pretrain": config.pretrain.model_copy(update=pretrain),
            "align": _few_samples(config.align),
            "evaluate": _limit_questions(config.evaluate, _QUESTIONS),
            "runtime": config.runtime.model_copy(update={"store": str(folder / "store")}),
        }
    )


def _limit_questions(config: EvaluateConfig, limit: int) -> EvaluateConfig:
    """Return the evaluation with at most `limit` questions per task, and at most one batch."""
    tasks = tuple(
        task.model_copy(update={"limit": min(task.limit or limit, limit, config.batch_size)}) for task in config.tasks
    )
    return config.model_copy(update={"tasks": tasks})


def _few_samples(config: AlignConfig) -> AlignConfig:
    """Return alignment with few steps of one epoch; selection still scores as many candidates as the samples have."""
    selection, one_epoch = config.selection, {"epochs": 1}
    few = {
        "num_instructions": min(selection.num_instructions, _ALIGNMENT_STEPS * config.sft.batch_size),
        "num_preferences": min(selection.num_preferences, _ALIGNMENT_STEPS * config.dpo.batch_size),
    }
    return AlignConfig(
        selection=selection.model_copy(update=few),
        sft=config.sft.model_copy(update=one_epoch),
        dpo=config.dpo.model_copy(update=one_epoch),
    )


def _write_sources(config: CurationConfig, samples: Sequence[Sample], folder: Path) -> CurationConfig:
    """Write each sample to a file of its own and return the settings of curation for these files."""
    folder.mkdir(parents=True)
    sources = []
    for sample in samples:
        path = folder / f"{sample.name}.jsonl"
        names = TEXT_NAMES[sample.pool]
        rows = ({"id": record.id, **dict(zip(names, record.texts, strict=True))} for record in sample.records)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        sources.append(FilesSource(name=sample.name, pool=sample.pool, paths=(str(path),)))
    return config.model_copy(update={"sources": tuple(sources)})
