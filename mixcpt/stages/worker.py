"""The process in which heavy stages run: `python -m mixcpt.stages.worker JOB.json`, always below a supervisor."""

import atexit
import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic import TypeAdapter

from mixcpt.config import (
    AdaptConfig,
    CachedTeacher,
    CurationConfig,
    DpoConfig,
    EvaluateConfig,
    Method,
    MixtureConfig,
    PretrainConfig,
    RetentionConfig,
    RuntimeConfig,
    SelectionConfig,
    SftConfig,
    Sharding,
)
from mixcpt.errors import MixcptError, StageInterrupted
from mixcpt.process.devices import usable_devices
from mixcpt.process.forkserver import ForkServer
from mixcpt.process.supervisor import Supervisor, supervised
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, StageName, Started, append_event
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.spool import NullTracker, Tracker, spool_of

_PASSING = ("OSError", "DistError", "AcceleratorError")
"""Errors outside our code that another try may not meet: disk and network, lost peers, a lost device. Named, because
naming is free while importing torch takes seconds."""
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
_LIGHT: tuple[StageName, ...] = ("curate",)
"""Stages that need no torch: a new process is there at once."""
_PRELOADED = (
    "mixcpt.train.pretrain",
    "mixcpt.evaluate.asking.harness",
    "mixcpt.align.trl_adapter",
    "mixcpt.planning.stage",
    "scipy.stats",
)
"""What stages import, and takes seconds: torch, transformers, lm-eval, trl, scipy."""
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""For glibc, in bytes: the tensors of a step take the memory of the step before. Otherwise it goes back to the system
and is taken again page by page, for up to a tenth of the time of a small training."""
_fork_servers: dict[str, ForkServer] = {}
_one_at_a_time = threading.Lock()
_one_lookup_at_a_time = threading.Lock()
"""Trials of a comparison are threads, and a lookup may import transformers: two at the same time see half of it."""


def worker_command(batch: Batch, num_processes: int = 1, launcher: str = "") -> list[str]:
    """Returns the command that runs a batch: by `launcher` where one is given, else by torchrun if need be.

    A launcher starts processes on several machines, which all have to see the store.
    """
    if launcher:
        return [*shlex.split(launcher), "-m", "mixcpt.stages.worker", str(batch.path)]
    if num_processes == 1:
        return [sys.executable, "-m", "mixcpt.stages.worker", str(batch.path)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    return [sys.executable, *torchrun, "-m", "mixcpt.stages.worker", str(batch.path)]


def worker_environment(num_threads: int) -> dict[str, str]:
    """Returns the variables that a worker needs; `num_threads` 0 leaves the choice to torch."""
    threads = {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)} if num_threads else {}
    told = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return {**told, **_KEPT_MEMORY, **threads}


def prepare_workers(runtime: RuntimeConfig) -> None:
    """Begins to import what stages need, in the background, where workers are forked."""
    if _may_fork() and not runtime.gpu_pool:
        _fork_server(ArtifactStore(runtime.store).root, worker_environment(runtime.num_threads))


@contextmanager
def worker_process(
    batch: Batch,
    runtime: RuntimeConfig,
    *,
    distributed: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
    keep_open: Sequence[int] = (),
) -> Iterator[Supervisor]:
    """Yields the supervisor of a process that runs a batch, which is to be written already.

    On Linux without a GPU it is forked from one that has imported the libraries: five starts are then one.

    Args:
        batch: What it runs.
        runtime: How many processes a distributed one has, and how many threads each of them.
        distributed: Whether to start as many processes as `runtime` says.
        variables: Of the process, beside those of every worker.
        keep_open: File descriptors that stay open while it lives, such as locks.
    """
    environment = worker_environment(runtime.num_threads)
    told: dict[str, Any] = {"log_path": batch.log, "environment": {**environment, **variables}, "keep_open": keep_open}
    if distributed or not _may_fork() or all(job.stage in _LIGHT for job in batch.jobs):
        launch = (runtime.num_processes, runtime.launcher) if distributed else ()
        with supervised(worker_command(batch, *launch), **told) as process:
            yield process
    else:
        server = _fork_server(Path(batch.store), environment)
        with server.call("mixcpt.stages.worker:main", str(batch.path), **told) as call:
            yield call


def _may_fork() -> bool:
    """Returns whether workers are forked: what has touched a GPU cannot be, nor macOS's frameworks."""
    return sys.platform == "linux" and not usable_devices()


def _fork_server(store: Path, environment: Mapping[str, str]) -> ForkServer:
    """Returns the server of this process for workers of this environment; it ends with this process."""
    with _one_at_a_time:
        key = json.dumps(environment, sort_keys=True)
        if key not in _fork_servers or not _fork_servers[key].lives:
            log = store / "logs" / "forkserver.txt"
            _fork_servers[key] = ForkServer(_PRELOADED, log_path=log, environment=environment)
            atexit.register(_fork_servers[key].close)
        return _fork_servers[key]


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Returns the artifact of a job whose inputs are all known, computed only where `store` has none."""
    return _STAGES[job.stage](job, store, tracker)


def lookup(job: Job, store: ArtifactStore) -> ArtifactRef | StageKey:
    """Returns the artifact of a job, or the key under which it would be made; computes nothing."""
    try:
        with _one_lookup_at_a_time:
            return run_job(job, _ReadingStore(store.root), NullTracker())
    except _NotThere as answer:
        return answer.key


def may_be_stored(job: Job, store: ArtifactStore) -> bool:
    """Returns False where the records of the store show, without asking the stage, that it has not run on these inputs.

    Asking can take seconds: some stages load a tokenizer to know their key.
    """
    kind, roles = _RECORDED[job.stage]
    digests = {job.input_digests[role] for role in roles}
    records = (json.loads(path.read_text()) for path in (store.root / kind).glob("*/record.json"))
    return not roles or any(digests <= set(record["inputs"].values()) for record in records)


def run_batch(batch: Batch) -> None:
    """Runs the jobs in order and reports each in the batch's events.

    Raises:
        Exception: What a stage raised; it is among the events by then.
    """
    results: dict[str, ArtifactRef] = {}
    for job in batch.jobs:
        relay = _SpoolOfCurrentJob()
        store = _AnnouncingStore(batch, job.name, relay)
        try:
            results[job.name] = run_job(job.resolve(results), store, relay)
        except BaseException as error:
            _report(batch, Failed(job.name, *_explain(error, job)))
            raise
        _report(batch, Finished(job.name, results[job.name]))


class _NotThere(Exception):
    def __init__(self, key: StageKey) -> None:
        super().__init__(key)
        self.key = key


class _ReadingStore(ArtifactStore):
    """A store that answers and never builds."""

    def produce(
        self, key: StageKey, build: Callable[[Path], Metrics], *, lineage: Mapping[str, Any] | None = None
    ) -> ArtifactRef:
        if found := self.find(key.kind, key.fingerprint):
            return found
        raise _NotThere(key)


class _SpoolOfCurrentJob:
    """A tracker whose file is known once the identity of the job is."""

    def __init__(self) -> None:
        self.spool: Tracker = NullTracker()

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        self.spool.log(step, metrics, total_steps=total_steps)


class _AnnouncingStore(ArtifactStore):
    """A store that says what it is about to build."""

    def __init__(self, batch: Batch, job: str, relay: _SpoolOfCurrentJob) -> None:
        super().__init__(batch.store)
        self.batch = batch
        self.job = job
        self.relay = relay

    def produce(
        self, key: StageKey, build: Callable[[Path], Metrics], *, lineage: Mapping[str, Any] | None = None
    ) -> ArtifactRef:
        def announce_and_build(folder: Path) -> Metrics:
            spool = spool_of(self.root, key.kind, key.fingerprint)
            self.relay.spool = spool if _is_first_process() else NullTracker()
            _report(self.batch, Started(self.job, key.kind, key.fingerprint, str(spool.path)))
            return build(folder)

        return super().produce(key, announce_and_build, lineage=lineage)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _report(batch: Batch, event: Started | Finished | Failed) -> None:
    if _is_first_process():
        append_event(batch.events, event)


def _explain(error: BaseException, job: Job) -> tuple[str, str, str]:
    """Returns class name, problem and hint of the error that the parent raises; the traceback goes to the log."""
    if isinstance(error, MixcptError):
        return type(error).__name__, error.problem, error.hint
    text = f"{job.name}: {type(error).__name__}: {error}"
    ancestors = {ancestor.__name__ for ancestor in type(error).__mro__}
    if ancestors & {*_OUT_OF_MEMORY}:
        return MixcptError.__name__, text, "lower the batch (micro_batch_rows, batch_size) or the row length"
    if ancestors & {*_PASSING} or not isinstance(error, Exception):
        return StageInterrupted.__name__, text, "the next try goes on from the last checkpoint"
    return MixcptError.__name__, text, "trying again would end the same way; the log has the traceback"


def _curate(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.curation import curate

    return curate(CurationConfig.model_validate(job.config), seed=job.seed, store=store)


def _plan(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.planning.stage import plan_from_corpus

    return plan_from_corpus(AdaptConfig.model_validate(job.config), job.model("base"), job.artifact("corpus"), store)


def _mix(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.mixture import mix

    settings = dict(job.config)
    method: Method = TypeAdapter(Method).validate_python(settings.pop("method"))
    config, streams = MixtureConfig.model_validate(settings), method.streams()
    return mix(config, job.artifact("corpus"), job.model("base"), seed=job.seed, store=store, streams=streams)


def _cache(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.distill.teacher_writer import cache_teacher
    from mixcpt.mixture.tokens import max_input_tokens

    config, base = PretrainConfig.model_validate(job.config), job.model("base")
    if not isinstance(config.teacher, CachedTeacher):
        raise TypeError(f"job {job.name}: the teacher is {config.teacher.kind}, not cached")
    return cache_teacher(
        config.teacher,
        job.artifact("mixture"),
        base,
        precision=config.precision,
        max_tokens=max_input_tokens(base),
        store=store,
        tracker=tracker,
    )


def _probe(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.evaluate.probe import draw_probe

    config = EvaluateConfig.model_validate(job.config["evaluate"])
    promise = RetentionConfig.model_validate(job.config["retention"])
    tasks, base, corpus = job.config["tasks"], job.model("base"), job.artifact("corpus")
    return draw_probe(config, promise, tasks, base, corpus, seed=job.seed, store=store)


def _pretrain(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.evaluate.probe import StoredProbe
    from mixcpt.train.pretrain import pretrain

    config, base = PretrainConfig.model_validate(job.config), job.model("base")
    return pretrain(
        config,
        job.artifact("mixture"),
        base,
        seed=job.seed,
        store=store,
        tracker=tracker,
        cache=job.artifact("cache") if "cache" in job.inputs else None,
        sharding=cast(Sharding, job.options.get("sharding", "none")),
        probe=StoredProbe(job.artifact("probe"), base) if "probe" in job.inputs else None,
    )


def _select(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.align import select

    config, template = SelectionConfig.model_validate(job.config), job.options["chat_template"]
    corpus, model = job.artifact("corpus"), job.model("model")
    return select(config, corpus, model, template, seed=job.seed, store=store, tracker=tracker)


def _sft(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.align import sft

    config, template = SftConfig.model_validate(job.config), job.options["chat_template"]
    selection, model = job.artifact("selection"), job.model("model")
    return sft(config, selection, model, template, seed=job.seed, store=store, tracker=tracker)


def _dpo(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.align import dpo

    config, template = DpoConfig.model_validate(job.config), job.options["chat_template"]
    selection, model = job.artifact("selection"), job.model("model")
    return dpo(config, selection, model, template, seed=job.seed, store=store, tracker=tracker)


def _evaluate(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.evaluate import evaluate
    from mixcpt.evaluate.asking.definitions import Form

    config, model, corpus = EvaluateConfig.model_validate(job.config), job.model("model"), job.artifact("corpus")
    form: Form = "chat" if job.options["form"] == "chat" else "plain"
    return evaluate(
        config,
        model,
        corpus,
        form=form,
        seed=job.seed,
        store=store,
        tracker=tracker,
        reference=job.model("reference") if "reference" in job.inputs else None,
        with_documents="documents" in job.options,
    )


def _smoke(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    from mixcpt.evaluate.asking.definitions import Form
    from mixcpt.evaluate.smoke import Smoke, smoke_test

    form: Form = "chat" if job.options["form"] == "chat" else "plain"
    config = EvaluateConfig.model_validate(job.config)
    smoke = Smoke(config, job.artifact("recorded"), form, job.options["attempt"])
    return smoke_test(smoke, job.model("model"), job.artifact("corpus"), seed=job.seed, store=store)


_STAGES: dict[StageName, Callable[[Job, ArtifactStore, Tracker], ArtifactRef]] = {
    "curate": _curate,
    "plan": _plan,
    "mix": _mix,
    "cache": _cache,
    "probe": _probe,
    "pretrain": _pretrain,
    "select": _select,
    "sft": _sft,
    "dpo": _dpo,
    "evaluate": _evaluate,
    "smoke": _smoke,
}
_RECORDED: dict[StageName, tuple[str, tuple[str, ...]]] = {
    "curate": ("corpus", ()),
    "plan": ("plan", ("corpus", "base")),
    "mix": ("mixture", ("corpus",)),
    "cache": ("teacher", ("base",)),
    "probe": ("probe", ("base",)),
    "pretrain": ("model", ("mixture", "base")),
    "select": ("selection", ("corpus", "model")),
    "sft": ("model", ("selection", "model")),
    "dpo": ("model", ("selection", "model")),
    "evaluate": ("evaluation", ("model",)),
    "smoke": ("smoke", ("model",)),
}
"""The kind of artifact of each stage, and those inputs whose digests are in its record as they are."""


def main(path: str) -> int:
    """Returns the exit code of a worker: 0, or 1 after a deliberate error; other errors leave with their traceback."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        run_batch(Batch.read(Path(path)))
    except MixcptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    if "WORLD_SIZE" not in os.environ:  # alone, it has nobody to take leave of; taking torch apart takes a second
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
