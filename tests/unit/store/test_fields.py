"""Dataclasses from published JSON: unknown entries are ignored, missing ones have defaults."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mixcpt.errors import ArtifactError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey, from_fields
from mixcpt.train.metrics import RetentionOutcome, TrainingMetrics


@dataclass(frozen=True, kw_only=True)
class Counts:
    rows: int
    tokens: int = 7
    names: tuple[str, ...] = ()


def model(store: ArtifactStore, metrics: dict[str, object]) -> ArtifactRef:
    return store.produce(StageKey("model", 1, metrics), lambda folder: metrics)


def test_from_fields_ignores_unknown_entries_and_keeps_defaults() -> None:
    assert from_fields(Counts, {"rows": 3, "colour": "red"}) == Counts(rows=3)


def test_from_fields_prefers_converted_values() -> None:
    assert from_fields(Counts, {"rows": 3, "names": ["a"]}, names=("b",)) == Counts(rows=3, names=("b",))


def test_from_fields_without_a_required_entry_is_refused() -> None:
    with pytest.raises(TypeError, match="rows"):
        from_fields(Counts, {"tokens": 1})


def test_training_metrics_of_a_model_have_its_effort_and_its_promise(tmp_path: Path) -> None:
    retention = {"share_of_change": 0.5, "pressure": 2.0, "kl": 0.1}
    ref = model(ArtifactStore(tmp_path), {"flops": 600, "tokens": 100, "steps": 4, "retention": retention})
    metrics = TrainingMetrics.of(ref)
    assert (metrics.steps, metrics.flops_per_token) == (4, 6.0)
    assert metrics.retention == RetentionOutcome(share_of_change=0.5, pressure=2.0)


def test_operations_per_token_of_a_merged_model_are_refused(tmp_path: Path) -> None:
    merged = model(ArtifactStore(tmp_path), {"method": "average"})
    with pytest.raises(ArtifactError, match="neither operations nor tokens"):
        _ = TrainingMetrics.of(merged).flops_per_token
