"""Reader and writer of the plan of a run: its cost stage by stage, and warnings about everything that will not fit."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from mixcpt.config import AdaptConfig
from mixcpt.records.run import JsonRecord, RunResult, load_json, run_identity
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef

Basis = Literal["analytic", "dry run"]
_OLD_BASES = {"trial": "dry run"}
"""Bases as earlier versions wrote them."""
_KIND = "plan"
_VERSION = 1
_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Device:
    """Device that a run is planned for."""

    name: str
    """Name of the device; `cpu` for a processor."""
    count: int
    """Number of devices that train at the same time."""
    memory_bytes: int
    """Memory of one device."""
    peak_flops: float
    """Peak speed of one device in the precision of pre-training, in operations per second."""
    fp32_flops: float
    """Peak speed of one device in fp32, which alignment and evaluation use, in operations per second."""
    bytes_per_second: float
    """Memory bandwidth of one device."""
    utilisation: float
    """Fraction of the peak speed that a training is assumed to reach."""
    is_here: bool
    """Whether it is a device of this machine, so that runs on it can be compared with the plan."""


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """Tokens that a run reads from one source."""

    name: str
    pool: str
    unique_tokens: int
    """Tokens of all its texts, each counted once."""
    tokens: int
    """Tokens read over all passes; the teacher's, if teacher and student read different texts."""
    is_exact: bool
    """Whether the whole source was counted, not only a sample."""

    @property
    def passes(self) -> float:
        """Number of times that each token is read."""
        return self.tokens / max(self.unique_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Planned cost of one stage."""

    stage: str
    """Name of the stage, as in the report's cost table."""
    seconds: float
    """Wall-clock time."""
    tokens: int = 0
    """Tokens read, padding included, as the stage records them; 0 if it trains nothing."""
    steps: int = 0
    """Optimizer steps; 0 if it trains nothing."""
    rows: int = 0
    """Rows, or samples of SFT and DPO; 0 if it trains nothing."""
    student_flops: int = 0
    """Floating-point operations of the trained or evaluated model."""
    teacher_flops: int = 0
    """Floating-point operations of the teacher or the reference model."""
    peak_memory_bytes: int = 0
    """Peak memory per device; 0 if the stage records none."""

    @property
    def flops(self) -> int:
        return self.student_flops + self.teacher_flops


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory per device at the peak of a training, in bytes."""

    stage: str
    parameters: int
    gradients: int
    """Gradients of the trained weights."""
    optimizer: int
    teacher: int
    """Weights of a separate teacher; 0 without one."""
    activations: int
    """Tensors kept from the forward pass for the backward pass."""
    head: int
    """Logits, their gradients, and other buffers of the loss."""
    process: int
    """Libraries, data, and memory that the allocator reserves."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if name != "stage"}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Disk space that a run takes in its store, in bytes."""

    mixture: int
    checkpoints: int
    """Checkpoints at their peak, when a new one is written before an old one is removed."""
    models: int
    teacher_cache: int
    """Cached predictions of the teacher; 0 without a cached teacher."""
    free: int
    """Free space on that disk."""

    @property
    def total(self) -> int:
        return self.mixture + self.checkpoints + self.models + self.teacher_cache


@dataclass(frozen=True, kw_only=True)
class Plan(JsonRecord):
    """Planned cost of a run."""

    name: str
    basis: Annotated[Basis, BeforeValidator(lambda basis: _OLD_BASES.get(basis, basis))]
    """Origin of time and memory: `analytic` (formulas) or `dry run` (a small run on this machine)."""
    device: Device
    """Device that the run is planned for."""
    num_parameters: int
    """Number of parameters of the student."""
    num_trained_parameters: int
    """Number of parameters that pre-training changes."""
    sources: tuple[SourceShare, ...]
    stages: tuple[StagePlan, ...]
    """Cost by stage, in the order of the run."""
    memory: tuple[Memory, ...]
    """Memory by stage, for the stages that train."""
    disk: Disk
    ram_bytes: int
    """Peak memory of one host for all its processes; on a CPU it includes the device memory."""
    start_seconds: float
    """Time to start the processes of all stages, which is mostly the import of libraries."""
    price_per_hour: float = 0.0
    """Price of one device for one hour, in any currency; 0 if unknown."""
    warnings: tuple[str, ...] = ()
    """Sentences about everything that will not fit; empty if all fits."""

    @property
    def seconds(self) -> float:
        return self.start_seconds + sum(stage.seconds for stage in self.stages)

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)

    @property
    def cost(self) -> float:
        """Cost of all devices for the whole time, in the currency of the price."""
        return self.price_per_hour * self.device.count * self.seconds / 3600

    @property
    def by_stage(self) -> dict[str, StagePlan]:
        return {stage.stage: stage for stage in self.stages}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, with its sums."""
        data = super().to_json() | {"total": {"seconds": self.seconds, "flops": self.flops, "cost": self.cost}}
        for entry, share in zip(data["sources"], self.sources, strict=True):
            entry["passes"] = share.passes
        for entry, memory in zip(data["memory"], self.memory, strict=True):
            entry["total"] = memory.total
        data["disk"]["total"] = self.disk.total
        return data


def plan_key(
    identity: str, inputs: Mapping[str, str], device: str, num_devices: int, *, measured_at: str = ""
) -> StageKey:
    """Return the key of a plan.

    Args:
        identity: Identity of the planned run, see `run_identity`.
        inputs: Digests of the artifacts that the plan is based on.
        device: Name of the device; empty for the device that the run itself uses.
        measured_at: Time of the request. Measurements are not reproducible, so each plan by command has its own key.
            Empty for the estimate that every run makes.
    """
    settings = {"run": identity, "device": device, "num_devices": num_devices, "measured_at": measured_at}
    return StageKey(kind=_KIND, version=_VERSION, settings=settings, inputs=inputs)


def key_of_estimate(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef) -> StageKey:
    """Return the key of the estimate that every run makes."""
    inputs = {"corpus": corpus.digest, "base": base.digest}
    return plan_key(run_identity(config, base, corpus.fingerprint), inputs, "", config.runtime.num_processes)


def job_key(job: Job) -> StageKey:
    """Return the key of a job `plan`."""
    return key_of_estimate(AdaptConfig.model_validate(job.config), job.model("base"), job.artifact("corpus"))


def save_plan(store: ArtifactStore, key: StageKey, make: Callable[[], Plan | None]) -> ArtifactRef:
    """Make and publish the plan of a key, if the store has none, and return its reference.

    If `make` returns None, the artifact is empty.
    """

    def write(folder: Path) -> dict[str, Any]:
        if (plan := make()) is None:
            return {}
        (folder / _FILE).write_text(json.dumps(plan.to_json(), indent=2))
        return {"basis": plan.basis, "planned_seconds": round(plan.seconds, 1), "planned_flops": plan.flops}

    return store.produce(key, write)


def load_plan(ref: ArtifactRef) -> Plan:
    """Return the plan of a published record."""
    return Plan.from_json(load_json(ref))


def price_per_hour(store: ArtifactStore) -> float:
    """Return the price of one device for one hour in the newest plan for this machine that has one, otherwise 0."""
    refs = [ref for ref in store.list(_KIND) if ref.file(_FILE).is_file()]
    newest_first = sorted(refs, key=lambda ref: str(ref.record["created_at"]), reverse=True)
    plans = (plan for plan in map(load_plan, newest_first) if plan.device.is_here and plan.price_per_hour)
    return next((plan.price_per_hour for plan in plans), 0.0)


def find_plan(store: ArtifactStore, result: RunResult) -> Plan | None:
    """Return the plan of a run on the machine that ran it, or None: the last dry run, else the estimate."""
    identity = run_identity(result.config, result.base, result.refs["corpus"].fingerprint)
    refs = [ref for ref in store.list(_KIND) if ref.record["settings"]["run"] == identity and ref.file(_FILE).is_file()]
    plans = [plan for plan in map(load_plan, refs) if plan.device.is_here]
    return sorted(plans, key=lambda plan: plan.basis == "dry run")[-1] if plans else None
