"""How the report reads artifacts: where they lie now, and no more of them than a page needs."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as parquet

from mixcpt.errors import ArtifactError
from mixcpt.records.run import RunResult
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore

STAGES = ("corpus", "mixture", "teacher", "probe", "pretrained", "selection", "sft", "dpo")
"""The roles of a run's artifacts, in the order in which they are made."""
MODELS = ("pretrained", "sft", "dpo")
"""The roles that are trained models."""

_Key = TypeVar("_Key", bound=Hashable)

_MAX_GROUPS = 200
_BATCH_ROWS = 4096


def located(run: RunResult, store: ArtifactStore) -> RunResult:
    """Returns the run with the places of its artifacts as they are now: the store may have moved since.

    Raises:
        ArtifactError: If an artifact of the run is no longer in the store.
    """

    def locate(refs: Mapping[str, ArtifactRef]) -> dict[str, ArtifactRef]:
        return {role: _locate(ref, store) for role, ref in refs.items()}

    return replace(run, refs=locate(run.refs), evaluations=locate(run.evaluations))


def shared(runs: Sequence[RunResult], role: str) -> list[tuple[ArtifactRef, list[str]]]:
    """Returns the different artifacts of a role, each with the names of the runs that use it."""
    found: dict[str, tuple[ArtifactRef, list[str]]] = {}
    for run in runs:
        if ref := run.refs.get(role):
            found.setdefault(ref.fingerprint, (ref, []))[1].append(run.name)
    return list(found.values())


def read_json(ref: ArtifactRef, name: str) -> Any:
    """Returns the content of a JSON file of an artifact."""
    return json.loads(ref.file(name).read_text(encoding="utf-8"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns all rows of a parquet file."""
    return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]


def first_rows(path: Path, num_rows: int) -> list[dict[str, Any]]:
    """Returns the first rows of a parquet file."""
    return sample_rows(path, lambda row: None, num_rows).get(None, [])


def sample_rows(
    path: Path, group: Callable[[dict[str, Any]], _Key], per_group: int
) -> dict[_Key, list[dict[str, Any]]]:
    """Returns the first rows of each group of a parquet file, which may be larger than the memory."""
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
        "run the same configuration again: what is missing is made anew, the rest is reused",
    )
