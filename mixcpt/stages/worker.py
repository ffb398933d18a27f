"""The worker process that runs a batch of jobs: `python -m mixcpt.stages.worker JOB.json`, below a supervisor."""

import ctypes
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path

from mixcpt.errors import MixcptError, StageInterrupted
from mixcpt.process.reporters import reporting
from mixcpt.process.supervisor import name_process
from mixcpt.stages.jobs import LOG, Batch, Failed, Finished, Job, Started, append_event
from mixcpt.stages.registry import find_stage
from mixcpt.stages.worker_pool import EXIT_CODE
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import NullTracker, Tracker, spool_of

_PASSING = {"OSError", "DistError", "AcceleratorError"}
"""Errors that a retry may avoid: disk, network, lost peers, a lost device. They are given by name, because importing
their classes from torch would take seconds."""
_PRELOADED = (
    "mixcpt.train.pretrain",
    "mixcpt.evaluate.asking.harness",
    "mixcpt.align.trl_adapter",
    "mixcpt.planning.stage",
    "scipy.stats",
)
"""Modules that import torch, transformers, lm-eval, trl and scipy, which takes seconds."""
_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}


def run_batch(batch: Batch) -> None:
    """Run the jobs of a batch in order, and append an event for each to the batch's file of events.

    Raises:
        Exception: The error of a stage, after its event is written.
    """
    results: dict[str, ArtifactRef] = {}
    for job in batch.jobs:
        announcement = _Announcement(batch, job.name)
        store = ArtifactStore(batch.store, on_build=announcement)
        try:
            with _reported(resolved := job.resolve(results), Path(batch.store)):
                ref = find_stage(job.stage).run_job(resolved, store, announcement)
        except BaseException as error:
            _report(batch, Failed(job.name, *_explain(error, job)))
            raise
        results[job.name] = ref
        _report(batch, Finished(job.name, ref))


def _reported(job: Job, store: Path) -> AbstractContextManager[None]:
    """Return a context in which the training of a job reports to the tools of its options."""
    names = job.options.reporters
    if not names:
        return nullcontext()
    fingerprint = find_stage(job.stage).key_of(job).fingerprint
    return reporting(names, store, run=job.options.run, stage=job.name, fingerprint=fingerprint)


class _Announcement:
    """Reports the start of a job, and then logs its metrics to the spool of its artifact."""

    def __init__(self, batch: Batch, job: str) -> None:
        self._batch = batch
        self._job = job
        self._spool: Tracker = NullTracker()

    def __call__(self, key: StageKey) -> None:
        spool = spool_of(Path(self._batch.store), key.kind, key.fingerprint)
        if _is_first_process():
            self._spool = spool
        _report(self._batch, Started(self._job, key.kind, key.fingerprint, str(spool.path)))

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        self._spool.log(step, metrics, total_steps=total_steps)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _report(batch: Batch, event: Started | Finished | Failed) -> None:
    if _is_first_process():
        append_event(batch.events, event)


def _explain(error: BaseException, job: Job) -> tuple[str, str, str]:
    """Return class name, problem and hint of an error for the parent process; the log contains the traceback."""
    if isinstance(error, MixcptError):
        return type(error).__name__, error.problem, error.hint
    text = f"{job.name}: {type(error).__name__}: {error}"
    ancestors = {ancestor.__name__ for ancestor in type(error).__mro__}
    if ancestors & _OUT_OF_MEMORY:
        return MixcptError.__name__, text, "lower the batch (micro_batch_rows, batch_size) or the row length"
    if ancestors & _PASSING or not isinstance(error, Exception):
        return StageInterrupted.__name__, text, "the next try continues from the last checkpoint"
    return MixcptError.__name__, text, "a retry would end the same way; the log has the traceback"


def main(path: str) -> int:
    """Run a batch and return the exit code: 0, or 1 after a `MixcptError`; other errors end with a traceback."""
    try:
        run_batch(Batch.read(Path(path)))
    except MixcptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def stay(requests: int, codes: int) -> None:
    """Import the libraries, then read paths of batches from one pipe, run them, and write exit codes to another."""
    gc.disable()  # imports make no garbage, and collecting it would take a fifth of their time
    for name in _PRELOADED:
        import_module(name)
    gc.freeze()
    gc.enable()
    with os.fdopen(requests) as paths:
        for line in paths:
            path = Path(line.strip())
            with _output_to(path.parent / LOG):
                try:
                    code = main(str(path))
                except Exception:  # noqa: BLE001 the worker stays for the next batch
                    traceback.print_exc()
                    code = 1
            _release_memory()
            os.write(codes, EXIT_CODE.pack(code))


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Append everything that is written to standard output and error to a file."""
    before = os.dup(1), os.dup(2)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in enumerate(before, start=1):
            os.dup2(saved, descriptor)
            os.close(saved)


def _release_memory() -> None:
    """Release freed memory to the system and reset the peak, so that the next batch is measured separately."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # only glibc has this function
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # some containers protect it; then the peak stays that of all batches
            Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    name_process("mixcpt-worker")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if sys.argv[1] == "--stay":
        stay(int(sys.argv[2]), int(sys.argv[3]))
        os._exit(0)  # unloading torch takes a second
    code = main(sys.argv[1])
    if "WORLD_SIZE" not in os.environ:  # no peers wait for this process, and unloading torch takes a second
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
