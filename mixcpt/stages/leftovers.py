"""What dead processes left in a store, told by locks and dates from what somebody works on."""

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
class Missed:
    """A finished stage of which something is left to log."""

    job: Job
    ref: ArtifactRef
    spool: Spool
    batch: Path


def missed_stages(store: ArtifactStore) -> list[Missed]:
    """Returns the published stages whose spool is still there, of batches that nobody works on."""
    folders = (path.parent for path in sorted((store.root / "work" / "batches").glob("*/job.json")))
    missed = (each for folder in folders if not is_held(folder / LOCK) for each in _missed_of(store, folder))
    return list({each.spool.path: each for each in missed}.values())  # a later batch may have found it in the store


def _missed_of(store: ArtifactStore, folder: Path) -> Iterator[Missed]:
    batch = Batch.read(folder / "job.json")
    jobs = {job.name: job for job in batch.jobs}
    results: dict[str, ArtifactRef] = {}
    for event in read_events(folder / "events.jsonl")[0]:
        if not isinstance(event, Finished):
            continue
        job, results[event.job] = jobs[event.job].resolve(results), event.ref
        spool = spool_of(store.root, event.ref.kind, event.ref.fingerprint)
        if spool.exists and store.find(event.ref.kind, event.ref.fingerprint):
            yield Missed(job, event.ref, spool, folder)


def old_drafts(store: ArtifactStore, older_than_seconds: float) -> Iterator[Path]:
    """Yields half-written artifacts that have not changed for so long, of kinds at which nobody works."""
    for draft in sorted(store.root.glob("*/.draft-*")):
        locks = (store.root / "work" / draft.parent.name).glob("*/lock")
        if _age_seconds(draft) > older_than_seconds and not any(map(is_held, locks)):
            yield draft


def old_batches(store: ArtifactStore, older_than_seconds: float) -> Iterator[Path]:
    """Yields folders of batches that have not changed for so long, and at which nobody works."""
    for folder in sorted((store.root / "work" / "batches").glob("*")):
        if _age_seconds(folder) > older_than_seconds and not is_held(folder / LOCK):
            yield folder


def published_spools(store: ArtifactStore) -> Iterator[tuple[str, Spool]]:
    """Yields the spools that are still there though their stage is published, with the fingerprint of the stage."""
    names = {path.name.partition(".")[0] for path in (store.root / "work" / "spools").glob("*.jsonl")}
    for name in sorted(names):
        kind, _, short = name.rpartition("-")
        folder = store.root / kind / short
        if (folder / MARKER).exists():
            fingerprint = json.loads((folder / RECORD).read_text())["fingerprint"]
            yield fingerprint, spool_of(store.root, kind, fingerprint)


def is_held(lock: Path) -> bool:
    """Returns whether a process holds this lock; a lock of the dead is free, and so is one that is not there."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _age_seconds(folder: Path) -> float:
    """Returns the time since the last change of a folder or of a file in it."""
    changed = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        try:
            changed.append(path.stat().st_mtime)
        except FileNotFoundError:  # removed meanwhile
            continue
    return time.time() - max(changed)
