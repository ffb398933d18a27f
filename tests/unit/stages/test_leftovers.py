"""Leftovers of dead processes: old and unlocked drafts and batches, and published stages that can still be logged."""

import os
import time
from pathlib import Path

from mixcpt.stages.jobs import Batch, Finished, Job, append_event
from mixcpt.stages.leftovers import old_batches, old_drafts, published_spools, unlogged_stages
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Spool, spool_of

HOUR = 3600.0


def aged(folder: Path, hours: float) -> Path:
    """Set the modification time of a folder and its files to so many hours ago, and return the folder."""
    then = time.time() - hours * HOUR
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))
    return folder


def published(store: ArtifactStore) -> ArtifactRef:
    def build(folder: Path) -> dict[str, int]:
        (folder / "corpus.txt").write_text("text")
        return {}

    return store.produce(StageKey("corpus", 1, {}), build)


def finished_batch(store: ArtifactStore) -> tuple[Batch, Spool]:
    ref = published(store)
    batch = Batch.in_store((Job(name="curate", stage="curate", config={}, seed=0),), store.root)
    batch.write()
    append_event(batch.events, Finished("curate", ref))
    return batch, spool_of(store.root, ref.kind, ref.fingerprint)


def test_old_drafts_are_leftovers_unless_their_kind_is_being_worked_on(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for name in ("old", "new"):
        (tmp_path / "model" / f".draft-{name}" / "model").mkdir(parents=True)
    old = aged(tmp_path / "model" / ".draft-old", 3)
    assert list(old_drafts(store, 2 * HOUR)) == [old]
    assert list(old_drafts(store, 4 * HOUR)) == []

    def build(folder: Path) -> dict[str, int]:
        assert list(old_drafts(store, 2 * HOUR)) == []
        return {}

    store.produce(StageKey("model", 1, {}), build)
    assert list(old_drafts(store, 2 * HOUR)) == [old]


def test_draft_with_one_fresh_file_is_no_leftover(tmp_path: Path) -> None:
    draft = tmp_path / "model" / ".draft-x" / "model"
    draft.mkdir(parents=True)
    aged(draft.parent, 3)
    (draft / "weights").write_text("")
    assert list(old_drafts(ArtifactStore(tmp_path), 2 * HOUR)) == []


def test_old_batches_are_leftovers_unless_a_process_holds_them(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    batch, _ = finished_batch(store)
    with batch.in_use():
        aged(Path(batch.folder), 3)
        assert list(old_batches(store, 2 * HOUR)) == []
    assert list(old_batches(store, 2 * HOUR)) == [Path(batch.folder)]
    assert list(old_batches(store, 4 * HOUR)) == []


def test_unlogged_stage_has_artifact_and_spool_and_no_active_batch(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    batch, spool = finished_batch(store)
    assert unlogged_stages(store) == []
    spool.flow_spool.log(0, {"system/process_memory_megabytes": 1.0})
    (stage,) = unlogged_stages(store)
    assert (stage.job, stage.spool.path, stage.batch) == (batch.jobs[0], spool.path, Path(batch.folder))
    with batch.in_use():
        assert unlogged_stages(store) == []
    spool.remove()
    assert unlogged_stages(store) == []


def test_unlogged_stage_in_two_batches_is_listed_once(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for _ in range(2):
        _, spool = finished_batch(store)
    spool.log(1, {"curate/documents": 3.0})
    assert len(unlogged_stages(store)) == 1


def test_unlogged_stage_with_a_damaged_artifact_is_not_listed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    _, spool = finished_batch(store)
    spool.log(1, {"curate/documents": 3.0})
    next(tmp_path.glob("corpus/*/corpus.txt")).write_text("other")
    assert unlogged_stages(store) == []


def test_published_spools_exclude_unfinished_stages(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    _, spool = finished_batch(store)
    spool.log(1, {"curate/documents": 3.0})
    spool.flow_spool.log(1, {"progress/percent": 3.0})
    spool_of(tmp_path, "model", "f" * 64).log(1, {"train/loss": 1.0})
    ((fingerprint, published_spool),) = published_spools(store)
    assert (fingerprint, published_spool.path) == (published(store).fingerprint, spool.path)
