"""Publishes the model of a training that several processes run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mixcpt.errors import ArtifactError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.train.sharding import environment


def publish_from_first(
    store: ArtifactStore,
    key: StageKey,
    build: Callable[[Path], Metrics],
    *,
    assist: Callable[[], object],
    checkpoints: Path,
    lineage: dict[str, Any],
) -> ArtifactRef:
    """Publish a training in the first process, remove its checkpoints, and return the reference in every process.

    Args:
        build: Trains, writes the artifact into a folder, and returns its metrics.
        assist: The same training in the other processes, which write nothing.

    Raises:
        ArtifactError: If the first process has not published.
    """
    published: ArtifactRef | None
    if environment("RANK", 0) == 0:
        published = store.produce(key, build, lineage=lineage)
        shutil.rmtree(checkpoints, ignore_errors=True)
    elif not (published := store.find(key.kind, key.fingerprint)):
        assist()
    if environment("WORLD_SIZE", 1) > 1:
        PartialState().wait_for_everyone()
    if published := published or store.find(key.kind, key.fingerprint):
        return published
    raise ArtifactError("the first process has not published the model", "see the error of that process")
