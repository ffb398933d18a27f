"""Cost of the runs by stage, and their provenance: artifacts, tracked runs, settings and library versions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from platform import python_version
from typing import Any

from mixcpt.records.plan import StagePlan, find_plan
from mixcpt.records.run import RunResult
from mixcpt.report.view import shared
from mixcpt.report.words import Number
from mixcpt.stages.registry import run_roles
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.train.metrics import TrainingMetrics

_LIBRARIES = (
    "mixcpt", "torch", "transformers", "tokenizers", "trl", "datasets", "accelerate", "lm-eval", "numpy", "pandas",
    "pyarrow", "scipy",
)  # fmt: skip
_PLANNED_COSTS = ("seconds", "tokens", "flops", "peak_memory_bytes")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


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


@dataclass(frozen=True)
class Planned:
    """Planned and measured cost of one stage or of a whole run."""

    stage: str
    pairs: Mapping[str, tuple[Number, Number]]
    """Planned and measured number by name of the cost; `seconds`, and any other cost that was planned and measured."""


def planned_and_measured(run: RunResult, costs: Iterable[Cost]) -> list[Planned]:
    """Return the planned stages of a run and their total, without the start of processes; empty without a plan."""
    plan = find_plan(ArtifactStore(run.refs["corpus"].directory.parents[1]), run)
    planned_stages = plan.by_stage if plan else {}
    stages = [(planned_stages[cost.stage], cost) for cost in costs if cost.stage in planned_stages]
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
    return [_planned(planned, cost) for planned, cost in [*stages, (planned_total, measured_total)]]


def _planned(plan: StagePlan, cost: Cost) -> Planned:
    pairs = {name: (getattr(plan, name), getattr(cost, name)) for name in _PLANNED_COSTS}
    return Planned(cost.stage, {name: pair for name, pair in pairs.items() if all(pair) or name == "seconds"})


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


@dataclass(frozen=True, kw_only=True)
class Link:
    """One artifact between the base and sources and the final models."""

    role: str
    runs: Sequence[str]
    ref: ArtifactRef
    inputs: Mapping[str, str]
    """Digests of the inputs by role."""
    created_at: str


def links(runs: Sequence[RunResult]) -> list[Link]:
    """Return the distinct artifacts of all runs in the order of production."""
    artifacts = []
    for role in run_roles():
        artifacts += [_link(role, ref, names) for ref, names in shared(runs, role)]
    evaluations: dict[str, tuple[str, ArtifactRef, list[str]]] = {}
    for run in runs:
        for role, ref in run.evaluations.items():
            evaluations.setdefault(ref.fingerprint, (f"evaluation of {role}", ref, []))[2].append(run.name)
    return artifacts + [_link(role, ref, names) for role, ref, names in evaluations.values()]


def tracked(run: RunResult) -> dict[str, str]:
    """Return the location of the run in MLflow without credentials; empty if the run was not tracked."""
    tracking = run.tracking
    fields = {
        "tracking server": _CREDENTIALS.sub("", tracking.uri),
        "experiment": tracking.experiment_id,
        "run": tracking.run_id,
        "registered version": tracking.model_version,
    }
    return {name: value for name, value in fields.items() if value}


def differences(runs: Sequence[RunResult]) -> dict[str, list[Any]]:
    """Return the settings that differ between the runs: the values of all runs by key path."""
    flat = [_flatten(run.config.model_dump(mode="json", exclude={"runtime", "tracking"})) for run in runs]
    keys = dict.fromkeys(chain.from_iterable(flat))
    values = {key: [settings.get(key, "") for settings in flat] for key in keys if key != "name"}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def libraries() -> dict[str, str]:
    """Return the installed versions of the libraries that can change results."""
    versions = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _link(role: str, ref: ArtifactRef, names: Sequence[str]) -> Link:
    record = ref.record
    return Link(
        role=role, runs=list(dict.fromkeys(names)), ref=ref, inputs=record["inputs"], created_at=record["created_at"]
    )


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested settings by key path, e.g. `tasks[0].name`."""
    if isinstance(value, dict) and value:
        children = {f"{path}.{name}" if path else name: item for name, item in value.items()}
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        children = {f"{path}[{index}]": item for index, item in enumerate(value)}
    else:
        return {path: value}
    leaves: dict[str, Any] = {}
    for child_path, item in children.items():
        leaves |= _flatten(item, child_path)
    return leaves
