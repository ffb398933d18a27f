"""Cost of a run by stage, as its artifacts recorded it during production."""

from collections.abc import Iterable
from dataclasses import dataclass

from mixcpt.records.plan import Plan, StagePlan, find_plan
from mixcpt.records.run import RunResult
from mixcpt.report.words import Number
from mixcpt.stages.registry import run_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.train.metrics import TrainingMetrics


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one stage or of a whole run; fields are None if the stage does not train."""

    stage: str
    seconds: Number
    """Wall-clock time of producing the artifact, also if an earlier run produced it."""
    tokens: int | None = None
    flops: Number | None = None
    tokens_per_second: Number | None = None
    peak_memory_bytes: int | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Planned and measured cost of one stage or of a whole run, as (planned, measured) pairs.

    A pair is None if the stage was not planned or not measured in that respect.
    """

    stage: str
    seconds: tuple[Number, Number]
    tokens: tuple[int, int] | None = None
    flops: tuple[Number, Number] | None = None
    peak_memory_bytes: tuple[int, int] | None = None

    @property
    def pairs(self) -> dict[str, tuple[Number, Number]]:
        """Existing pairs by name."""
        names = ("seconds", "tokens", "flops", "peak_memory_bytes")
        return {name: pair for name in names if (pair := getattr(self, name))}


def plan_of_run(run: RunResult) -> Plan | None:
    """Return the plan in the store that contains the run's artifacts; None if the run has no plan."""
    return find_plan(ArtifactStore(run.refs["corpus"].directory.parents[1]), run)


def planned_and_measured(plan: Plan, costs: Iterable[Cost]) -> list[Planned]:
    """Return the planned stages of a run and their total; the total excludes the start of processes."""
    stages = [(plan.by_stage[cost.stage], cost) for cost in costs if cost.stage in plan.by_stage]
    if not stages:
        return []
    planned_total = StagePlan(
        stage="total",
        seconds=sum(planned.seconds for planned, _ in stages),
        tokens=sum(planned.tokens for planned, _ in stages),
        student_flops=sum(planned.flops for planned, cost in stages if cost.flops),
        peak_memory_bytes=max(planned.peak_memory_bytes for planned, _ in stages),
    )
    measured_total = total(cost for _, cost in stages)
    return [_pairs(planned, cost) for planned, cost in [*stages, (planned_total, measured_total)]]


def _pairs(plan: StagePlan, cost: Cost) -> Planned:
    has_memory = plan.peak_memory_bytes and cost.peak_memory_bytes
    return Planned(
        stage=cost.stage,
        seconds=(plan.seconds, cost.seconds),
        tokens=(plan.tokens, cost.tokens) if plan.tokens and cost.tokens else None,
        flops=(plan.flops, cost.flops) if plan.flops and cost.flops else None,
        peak_memory_bytes=(plan.peak_memory_bytes, cost.peak_memory_bytes or 0) if has_memory else None,
    )


def stage_costs(run: RunResult) -> list[Cost]:
    """Return the costs of all stages of a run, evaluations last."""
    stages = [_cost(role, run.refs[role]) for role in run_roles() if role in run.refs]
    return stages + [_cost(f"evaluation of {role}", ref) for role, ref in run.evaluations.items()]


def total(stages: Iterable[Cost]) -> Cost:
    """Return the sum over stages, with the highest memory peak."""
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
    metrics = TrainingMetrics.of(ref) if ref.kind == "model" else TrainingMetrics()
    return Cost(
        stage=stage,
        # the record counts the last attempt only; training time also counts the attempts before it
        seconds=max(ref.record["seconds"], metrics.train_seconds or 0),
        tokens=metrics.tokens,
        flops=metrics.flops,
        tokens_per_second=metrics.tokens_per_second,
        peak_memory_bytes=metrics.peak_memory_bytes,
        steps=metrics.steps,
    )
