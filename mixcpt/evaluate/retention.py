"""Learned against forgotten, in three numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mixcpt.evaluate.statistics import TaskDelta


@dataclass(frozen=True)
class Retention:
    """Mean changes of accuracy against the base, each task counting the same; NaN where a group has no such task."""

    domain_mean_delta: float
    """What was learned."""
    general_mean_delta: float
    """What happened to the rest, gains and losses together."""
    general_mean_loss: float
    """What was forgotten: gains on one general task do not make up for losses on another."""

    def to_json(self) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, float | None]) -> "Retention":
        return cls(**{name: math.nan if value is None else value for name, value in data.items()})


def retention(deltas: Sequence[TaskDelta]) -> Retention:
    """Returns what was learned and kept, over the accuracy tasks."""
    domain = [delta.delta for delta in deltas if delta.metric == "accuracy" and delta.group == "domain"]
    general = [delta.delta for delta in deltas if delta.metric == "accuracy" and delta.group == "general"]
    return Retention(_mean(domain), _mean(general), _mean([max(0.0, -delta) for delta in general]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
