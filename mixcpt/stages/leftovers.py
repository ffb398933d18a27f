"""Finds leftovers of dead processes in a store; locks and dates exclude files that are in use."""

import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mixcpt.stages.jobs import LOCK, Batch, Finished, Job, read_events
from mixcpt.store.artifacts import MARKER, RECORD, ArtifactRef, ArtifactStore
from mixcpt.store.spool import Spool, spool_of


@dataclass(frozen=True)
class UnloggedStage:
    """A finished stage with measurements that are not logged yet."""

    job: Job
    ref: ArtifactRef
    spool: Spool
    batch: Path


def unlogged_stages(store: ArtifactStore) -> list[UnloggedStage]:
    """Return the published stages whose spool still exists, without batches that a process works on."""
    stages: dict[Path, UnloggedStage] = {}
    for path in sorted((store.root / "work" / "batches").glob("*/job.json")):
        if not is_held(path.with_name(LOCK)):
            # a later batch may have found the same stage in the store
            stages.update({stage.spool.path: stage for stage in _unlogged_in(store, path.parent)})
    return list(stages.values())


def _unlogged_in(store: ArtifactStore, folder: Path) -> Iterator[UnloggedStage]:
    batch = Batch.read(folder / "job.json")
    jobs = {job.name: job for job in batch.jobs}
    results: dict[str, ArtifactRef] = {}
    for event in read_events(folder / "events.jsonl")[0]:
        if not isinstance(event, Finished):
            continue
        job, results[event.job] = jobs[event.job].resolve(results), event.ref
        spool = spool_of(store.root, event.ref.kind, event.ref.fingerprint)
        if spool.exists and store.find(event.ref.kind, event.ref.fingerprint):
            yield UnloggedStage(job, event.ref, spool, batch=folder)


def old_drafts(store: ArtifactStore, older_than_seconds: float) -> Iterator[Path]:
    """Yield drafts of artifacts that have not changed for so long, of kinds that no process works on."""
    for draft in sorted(store.root.glob("*/.draft-*")):
        locks = (store.root / "work" / draft.parent.name).glob("*/lock")
        if _age_seconds(draft) > older_than_seconds and not any(map(is_held, locks)):
            yield draft


def old_batches(store: ArtifactStore, older_than_seconds: float) -> Iterator[Path]:
    """Yield folders of batches that have not changed for so long and that no process works on."""
    for folder in sorted((store.root / "work" / "batches").glob("*")):
        if _age_seconds(folder) > older_than_seconds and not is_held(folder / LOCK):
            yield folder


def published_spools(store: ArtifactStore) -> Iterator[tuple[str, Spool]]:
    """Yield the fingerprints and spools of published stages whose spool still exists."""
    names = {path.name.partition(".")[0] for path in (store.root / "work" / "spools").glob("*.jsonl")}
    for name in sorted(names):
        kind, _, short = name.rpartition("-")
        folder = store.root / kind / short
        if (folder / MARKER).exists():
            fingerprint = json.loads((folder / RECORD).read_text())["fingerprint"]
            yield fingerprint, spool_of(store.root, kind, fingerprint)


def is_held(lock: Path) -> bool:
    """Return whether a process holds a lock; a missing file counts as free."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _age_seconds(folder: Path) -> float:
    """Return the time since the last change of a folder or of a file in it."""
    changed = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        try:
            changed.append(path.stat().st_mtime)
        except FileNotFoundError:  # removed meanwhile
            continue
    return time.time() - max(changed)
