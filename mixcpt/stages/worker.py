"""The worker process that runs a batch of jobs: `python -m mixcpt.stages.worker JOB.json`, below a supervisor."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mixcpt.errors import MixcptError, StageInterrupted
from mixcpt.stages.jobs import Batch, Failed, Finished, Job, Started, append_event
from mixcpt.stages.registry import find_stage
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import NullTracker, Tracker, spool_of

_PASSING = ("OSError", "DistError", "AcceleratorError")
"""Errors from outside our code that a retry may not meet: disk, network, lost peers, a lost device. They are named
because importing torch to refer to them would take seconds."""
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")


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
            ref = find_stage(job.stage).run_job(job.resolve(results), store, announcement)
        except BaseException as error:
            _report(batch, Failed(job.name, *_explain(error, job)))
            raise
        results[job.name] = ref
        _report(batch, Finished(job.name, ref))


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
    """Return class name, problem and hint of the error for the parent process; the traceback goes to the log."""
    if isinstance(error, MixcptError):
        return type(error).__name__, error.problem, error.hint
    text = f"{job.name}: {type(error).__name__}: {error}"
    ancestors = {ancestor.__name__ for ancestor in type(error).__mro__}
    if ancestors & {*_OUT_OF_MEMORY}:
        return MixcptError.__name__, text, "lower the batch (micro_batch_rows, batch_size) or the row length"
    if ancestors & {*_PASSING} or not isinstance(error, Exception):
        return StageInterrupted.__name__, text, "the next try goes on from the last checkpoint"
    return MixcptError.__name__, text, "trying again would end the same way; the log has the traceback"


def main(path: str) -> int:
    """Run a batch and return the exit code: 0, or 1 after a `MixcptError`; other errors end with a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        run_batch(Batch.read(Path(path)))
    except MixcptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    if "WORLD_SIZE" not in os.environ:  # no peers wait for this process, and unloading torch takes a second
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
