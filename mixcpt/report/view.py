"""Reading artifacts for a report: their current location, and only the rows that a page shows."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as parquet

from mixcpt.errors import ArtifactError
from mixcpt.records.run import RunResult
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore

_Key = TypeVar("_Key", bound=Hashable)

_MAX_GROUPS = 200
_BATCH_ROWS = 4096


def located(run: RunResult, store: ArtifactStore) -> RunResult:
    """Return the run with the current paths of its artifacts; the store may have moved since the run.

    Raises:
        ArtifactError: If an artifact of the run is no longer in the store.
    """

    def locate(refs: Mapping[str, ArtifactRef]) -> dict[str, ArtifactRef]:
        return {role: _locate(ref, store) for role, ref in refs.items()}

    return replace(run, refs=locate(run.refs), evaluations=locate(run.evaluations))


def shared(runs: Sequence[RunResult], role: str) -> list[tuple[ArtifactRef, list[str]]]:
    """Return the distinct artifacts of a role, each with the names of the runs that use it."""
    users: dict[str, tuple[ArtifactRef, list[str]]] = {}
    for run in runs:
        if ref := run.refs.get(role):
            users.setdefault(ref.fingerprint, (ref, []))[1].append(run.name)
    return list(users.values())


def read_json(ref: ArtifactRef, name: str) -> Any:
    """Return the content of a JSON file of an artifact."""
    return json.loads(ref.file(name).read_text(encoding="utf-8"))


def first_rows(path: Path, num_rows: int) -> list[dict[str, Any]]:
    """Return the first rows of a parquet file."""
    return sample_rows(path, lambda row: None, num_rows).get(None, [])


def sample_rows(
    path: Path, group: Callable[[dict[str, Any]], _Key], per_group: int
) -> dict[_Key, list[dict[str, Any]]]:
    """Return the first rows per group of a parquet file, reading it in batches."""
    groups: dict[_Key, list[dict[str, Any]]] = {}
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS):
        for row in batch.to_pylist():
            rows = groups.setdefault(group(row), []) if len(groups) < _MAX_GROUPS else groups.get(group(row), [])
            if len(rows) < per_group:
                rows.append(row)
    return groups


def _locate(ref: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    here = replace(ref, path=str(store.root / ref.kind / ref.short))
    for candidate in (here, ref):
        if candidate.file("record.json").is_file():
            return candidate
    raise ArtifactError(
        f"the {ref.kind} {ref.short} of this run is not in {store.root}",
        "run the same configuration again: missing artifacts are rebuilt, the others are reused",
    )
