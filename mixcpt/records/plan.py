"""The plan of a run as data: what it will take, stage by stage, and where it will not fit; kept in the store."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from mixcpt.records.run import RunResult, run_identity
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

Basis = Literal["analytic", "trial"]
_KIND = "plan"
_VERSION = 1
_FILE = "plan.json"


@dataclass(frozen=True)
class Device:
    """What computes."""

    name: str
    count: int
    """How many of them train at the same time."""
    memory_bytes: int
    """Of each."""
    peak_flops: float
    """Of each, per second, in the precision of pre-training."""
    fp32_flops: float
    """The same in fp32, in which alignment and evaluation compute."""
    bytes_per_second: float
    """Bandwidth of its memory."""
    utilisation: float
    """Share of the peak that training is assumed to reach."""
    is_here: bool
    """Whether it is this machine, so that a run of it can be held against the plan."""


@dataclass(frozen=True)
class SourceShare:
    """What a run reads of one source."""

    name: str
    pool: str
    unique_tokens: int
    tokens: int
    """Over all passes; where teacher and student read different things, the teacher's."""
    is_exact: bool
    """Whether all of the source was counted; otherwise a sample was."""

    @property
    def passes(self) -> float:
        """How often each token is read."""
        return self.tokens / max(self.unique_tokens, 1)


@dataclass(frozen=True)
class StagePlan:
    """What one stage will take; the names are those of the report's cost table."""

    stage: str
    seconds: float
    tokens: int = 0
    """Padding included, as the stage will record them; 0 where it trains nothing."""
    steps: int = 0
    rows: int = 0
    student_flops: int = 0
    teacher_flops: int = 0
    peak_memory_bytes: int = 0
    """Of each device; 0 where the stage records none."""

    @property
    def flops(self) -> int:
        return self.student_flops + self.teacher_flops


@dataclass(frozen=True)
class Memory:
    """What fills each device at the peak of a training, in bytes."""

    stage: str
    parameters: int
    gradients: int
    optimizer: int
    teacher: int
    activations: int
    head: int
    """Logits, their gradients, and what the loss needs beside them."""
    process: int
    """Libraries, data and what the allocator holds back."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if name != "stage"}


@dataclass(frozen=True)
class Disk:
    """What the run writes into its store, in bytes."""

    mixture: int
    checkpoints: int
    """At their most, while a new one is written beside those that are kept."""
    models: int
    teacher_cache: int
    free: int
    """What is left there now."""

    @property
    def total(self) -> int:
        return self.mixture + self.checkpoints + self.models + self.teacher_cache


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    name: str
    basis: Basis
    """How speed and memory are known: from formulas, or from a trial on this machine."""
    device: Device
    num_parameters: int
    num_trained_parameters: int
    sources: tuple[SourceShare, ...]
    stages: tuple[StagePlan, ...]
    memory: tuple[Memory, ...]
    """Of each stage that trains."""
    disk: Disk
    ram_bytes: int
    """Of the machine that the processes of one host will hold at most; on a CPU the device's memory itself."""
    start_seconds: float
    """Of starting the processes of all stages: mostly importing libraries."""
    price_per_hour: float = 0.0
    """Of each device; 0 where nobody said."""
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return self.start_seconds + sum(stage.seconds for stage in self.stages)

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages)

    @property
    def cost(self) -> float:
        """What the devices cost for all of the time, in the currency of the price."""
        return self.price_per_hour * self.device.count * self.seconds / 3600

    @property
    def by_stage(self) -> dict[str, StagePlan]:
        return {stage.stage: stage for stage in self.stages}

    def to_json(self) -> dict[str, Any]:
        """Returns the plan with its sums, as JSON values."""
        sums = {"seconds": self.seconds, "flops": self.flops, "cost": self.cost}
        data: dict[str, Any] = _PLAN.dump_python(self, mode="json") | {"total": sums}
        for share, of in zip(data["sources"], self.sources, strict=True):
            share["passes"] = of.passes
        for entry, parts in zip(data["memory"], self.memory, strict=True):
            entry["total"] = parts.total
        data["disk"]["total"] = self.disk.total
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        return _PLAN.validate_python(dict(data))


_PLAN = TypeAdapter(Plan)


def plan_key(
    identity: str, inputs: Mapping[str, str], device: str, num_devices: int, *, measured_at: str = ""
) -> StageKey:
    """Returns the identity of a plan: the run that it is of, and what it was reckoned for.

    Args:
        identity: Of the run, see `run_identity`.
        inputs: Digests of what the figures were counted in.
        device: Name of it; empty for what the run itself trains on.
        num_devices: How many of them.
        measured_at: When somebody asked: a measurement is no function of settings, so each is kept by itself.
    """
    settings = {"run": identity, "device": device, "num_devices": num_devices, "measured_at": measured_at}
    return StageKey(_KIND, _VERSION, settings, inputs)


def save_plan(store: ArtifactStore, key: StageKey, make: Callable[[], Plan | None]) -> ArtifactRef:
    """Returns the published plan of this key, empty where there is none; `make` is called where the store has none."""

    def write(folder: Path) -> dict[str, Any]:
        if (plan := make()) is None:
            return {}
        (folder / _FILE).write_text(json.dumps(plan.to_json(), indent=2))
        return {"basis": plan.basis, "planned_seconds": round(plan.seconds, 1), "planned_flops": plan.flops}

    return store.produce(key, write)


def load_plan(ref: ArtifactRef) -> Plan:
    """Returns the plan of a published record."""
    return Plan.from_json(json.loads(ref.file(_FILE).read_text()))


def plan_of(store: ArtifactStore, result: RunResult) -> Plan | None:
    """Returns what was planned for a run on the machine that made it: by the last trial, else by formulas."""
    identity = run_identity(result.config, result.base, result.refs["corpus"].fingerprint)
    refs = [ref for ref in store.list(_KIND) if ref.record["settings"]["run"] == identity and ref.file(_FILE).is_file()]
    here = [plan for plan in map(load_plan, refs) if plan.device.is_here]
    return sorted(here, key=lambda plan: plan.basis == "trial")[-1] if here else None
