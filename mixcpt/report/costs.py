"""What a run cost, stage by stage, as its artifacts recorded it when they were made."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mixcpt.artifacts import ArtifactRef
from mixcpt.report.view import STAGES
from mixcpt.report.words import Number
from mixcpt.runs import RunResult


@dataclass(frozen=True)
class Cost:
    """Effort of one stage, or of a whole run; None where the stage does not train."""

    stage: str
    seconds: Number
    """Wall-clock time of making the artifact, whichever run made it."""
    tokens: int | None = None
    flops: Number | None = None
    tokens_per_second: Number | None = None
    peak_memory_bytes: int | None = None
    steps: int | None = None


def stage_costs(run: RunResult) -> list[Cost]:
    """Returns the cost of each stage of a run, its evaluations last."""
    made = [_cost(role, run.refs[role]) for role in STAGES if role in run.refs]
    return made + [_cost(f"evaluation of {role}", ref) for role, ref in run.evaluations.items()]


def total(stages: Iterable[Cost]) -> Cost:
    """Returns the sum over stages; of the memory peaks, the highest."""
    costs = list(stages)
    return Cost(
        stage="total",
        seconds=sum(cost.seconds for cost in costs),
        tokens=sum(cost.tokens or 0 for cost in costs),
        flops=sum(cost.flops or 0 for cost in costs),
        peak_memory_bytes=max((cost.peak_memory_bytes or 0 for cost in costs), default=0) or None,
        steps=sum(cost.steps or 0 for cost in costs),
    )


def _cost(stage: str, ref: ArtifactRef) -> Cost:
    record: dict[str, Any] = ref.record
    metrics = record["metrics"] if ref.kind == "model" else {}
    return Cost(
        stage=stage,
        seconds=max(record["seconds"], metrics.get("train_seconds", 0)),  # the first counts the last attempt alone
        tokens=metrics.get("tokens"),
        flops=metrics.get("flops"),
        tokens_per_second=metrics.get("tokens_per_second"),
        peak_memory_bytes=metrics.get("peak_memory_bytes"),
        steps=metrics.get("steps"),
    )
