"""What a run cost, stage by stage, as its artifacts recorded it when they were made."""

from collections.abc import Iterable
from dataclasses import dataclass

from mixcpt.records.plan import Plan, StagePlan, find_plan
from mixcpt.records.run import RunResult
from mixcpt.report.words import Number
from mixcpt.stages.registry import run_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.train.metrics import TrainingMetrics


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


@dataclass(frozen=True)
class Planned:
    """What was planned for one stage, or for all of a run, beside what was measured; only what both have."""

    stage: str
    seconds: tuple[Number, Number]
    """Planned, measured; so the others."""
    tokens: tuple[int, int] | None = None
    flops: tuple[Number, Number] | None = None
    peak_memory_bytes: tuple[int, int] | None = None

    @property
    def pairs(self) -> dict[str, tuple[Number, Number]]:
        """The pairs that are there, by name."""
        names = ("seconds", "tokens", "flops", "peak_memory_bytes")
        return {name: pair for name in names if (pair := getattr(self, name))}


def plan_of_run(run: RunResult) -> Plan | None:
    """Returns the plan that lies in the store beside a run's artifacts; None where nobody planned."""
    return find_plan(ArtifactStore(run.refs["corpus"].directory.parents[1]), run)


def beside_plan(plan: Plan, stages: Iterable[Cost]) -> list[Planned]:
    """Returns the stages of a run that were planned, and their sum, which leaves starting processes aside."""
    both = [(plan.by_stage[cost.stage], cost) for cost in stages if cost.stage in plan.by_stage]
    found = [_beside(of, cost) for of, cost in both]
    whole = total(cost for _, cost in both)
    sums = StagePlan(
        stage="total",
        seconds=sum(of.seconds for of, _ in both),
        tokens=sum(of.tokens for of, _ in both),
        student_flops=sum(of.flops for of, cost in both if cost.flops),
        peak_memory_bytes=max((of.peak_memory_bytes for of, _ in both), default=0),
    )
    return [*found, _beside(sums, whole)] if found else []


def _beside(plan: StagePlan, cost: Cost) -> Planned:
    return Planned(
        cost.stage,
        (plan.seconds, cost.seconds),
        (plan.tokens, cost.tokens) if plan.tokens and cost.tokens else None,
        (plan.flops, cost.flops) if plan.flops and cost.flops else None,
        (plan.peak_memory_bytes, cost.peak_memory_bytes) if plan.peak_memory_bytes and cost.peak_memory_bytes else None,
    )


def stage_costs(run: RunResult) -> list[Cost]:
    """Returns the cost of each stage of a run, its evaluations last."""
    made = [_cost(role, run.refs[role]) for role in run_roles() if role in run.refs]
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
    metrics = TrainingMetrics.of(ref) if ref.kind == "model" else TrainingMetrics()
    return Cost(
        stage=stage,
        seconds=max(ref.record["seconds"], metrics.train_seconds or 0),  # the first counts the last attempt alone
        tokens=metrics.tokens,
        flops=metrics.flops,
        tokens_per_second=metrics.tokens_per_second,
        peak_memory_bytes=metrics.peak_memory_bytes,
        steps=metrics.steps,
    )
