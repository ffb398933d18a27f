"""Learned against forgotten in a few numbers, and how far the model has moved from the base."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mixcpt.evaluate.statistics.deltas import TaskDelta
from mixcpt.evaluate.statistics.estimates import estimate, number_passages
from mixcpt.store.artifacts import ArtifactRef

_LEAST_SKILL = 0.05
"""A base no better than this above chance has nothing of which a share could be kept."""


@dataclass(frozen=True)
class Retention:
    """Mean changes of accuracy against the base, each task counting the same; NaN where a group has no such task."""

    domain_mean_delta: float
    """What was learned."""
    general_mean_delta: float
    """What happened to the rest, gains and losses together."""
    general_mean_loss: float
    """What was forgotten: gains on one general task do not make up for losses on another."""
    general_retained: float
    """What is left of the base's skill above chance: mean of (value - chance) / (base - chance)."""

    def to_json(self) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, float | None]) -> "Retention":
        return cls(**{name: math.nan if value is None else value for name, value in data.items()})


def retention(deltas: Sequence[TaskDelta]) -> Retention:
    """Returns what was learned and kept, over the accuracy tasks."""
    domain = [delta for delta in deltas if delta.metric == "accuracy" and delta.group == "domain"]
    general = [delta for delta in deltas if delta.metric == "accuracy" and delta.group == "general"]
    skilled = [delta for delta in general if delta.base - delta.chance > _LEAST_SKILL]
    return Retention(
        domain_mean_delta=_mean([delta.delta for delta in domain]),
        general_mean_delta=_mean([delta.delta for delta in general]),
        general_mean_loss=_mean([max(0.0, -delta.delta) for delta in general]),
        general_retained=_mean([(delta.value - delta.chance) / (delta.base - delta.chance) for delta in skilled]),
    )


@dataclass(frozen=True)
class Drift:
    """How far a model's predictions on one task's questions are from the base's: mean KL(base || model)."""

    task: str
    group: str
    nats: float
    """Per token, over question and right answer."""
    stderr: float


def drift(evaluation: ArtifactRef) -> list[Drift]:
    """Returns the drift on each task, none where the evaluation knew no base."""
    import pandas as pd

    items = pd.read_parquet(evaluation.file("items.parquet"))
    found = []
    for name, rows in items.groupby("task", sort=False):
        if rows["kl_to_reference"].isna().any():
            continue
        values = rows["kl_to_reference"].to_numpy(dtype=float)
        nats, stderr = estimate(values, values * 0 + 1, number_passages(rows["passage"].tolist()))
        found.append(Drift(str(name), str(rows["group"].iloc[0]), nats, stderr))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
