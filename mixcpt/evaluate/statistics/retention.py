"""Learning and forgetting in a few numbers, and the distance of the model from the base."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixcpt.evaluate.statistics.deltas import TaskDelta
from mixcpt.evaluate.statistics.estimates import estimate, number_passages
from mixcpt.evaluate.statistics.json_values import nan_to_null, null_to_nan
from mixcpt.store.artifacts import ArtifactRef

_MIN_SKILL = 0.05
"""Minimum accuracy above chance that a base needs on a task, so that a retained fraction is meaningful."""


@dataclass(frozen=True)
class Retention:
    """Mean changes of accuracy against the base, with equal weights for all tasks; NaN if a group has no such task."""

    domain_mean_delta: float
    """Mean change on the domain's tasks: learning."""
    general_mean_delta: float
    """Mean change on the general tasks, gains and losses together."""
    general_mean_loss: float
    """Mean loss on the general tasks: forgetting. A gain on one task does not offset a loss on another."""
    general_retained: float
    """Retained fraction of the base's skill above chance: mean of (value - chance) / (base - chance)."""

    def to_json(self) -> dict[str, float | None]:
        return nan_to_null(self)

    @classmethod
    def from_json(cls, data: Mapping[str, float | None]) -> "Retention":
        return cls(**null_to_nan(data))


def retention(deltas: Sequence[TaskDelta]) -> Retention:
    """Return learning and retention over the accuracy tasks."""
    domain = [delta for delta in deltas if delta.metric == "accuracy" and delta.group == "domain"]
    general = [delta for delta in deltas if delta.metric == "accuracy" and delta.group == "general"]
    skilled = [delta for delta in general if delta.base - delta.chance > _MIN_SKILL]
    return Retention(
        domain_mean_delta=_mean([delta.delta for delta in domain]),
        general_mean_delta=_mean([delta.delta for delta in general]),
        general_mean_loss=_mean([max(0.0, -delta.delta) for delta in general]),
        general_retained=_mean([(delta.value - delta.chance) / (delta.base - delta.chance) for delta in skilled]),
    )


@dataclass(frozen=True)
class Drift:
    """Distance of a model's predictions on one task's questions from the base's: mean KL(base || model)."""

    task: str
    group: str
    nats: float
    """Mean KL per token over question and correct answer, in nats."""
    stderr: float


def drift(evaluation: ArtifactRef) -> list[Drift]:
    """Return the drift per task; empty if the evaluation had no reference."""
    import pandas as pd

    items = pd.read_parquet(evaluation.file("items.parquet"))
    drifts = []
    for name, rows in items.groupby("task", sort=False):
        if rows["kl_to_reference"].isna().any():
            continue
        values = rows["kl_to_reference"].to_numpy(dtype=float)
        nats, stderr = estimate(values, values * 0 + 1, number_passages(rows["passage"].tolist()))
        drifts.append(Drift(str(name), str(rows["group"].iloc[0]), nats, stderr=stderr))
    return drifts


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
