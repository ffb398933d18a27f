"""The plan of a run, estimated by formulas or measured by a dry run, with warnings about everything that will not fit.

A warning lists settings that would make it fit, each with its own estimate.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mixcpt.config import AdaptConfig, AdapterOffTeacherConfig, CachedTeacherConfig, LoraScopeConfig, PretrainConfig
from mixcpt.errors import MixcptError
from mixcpt.planning import estimates, extrapolation
from mixcpt.planning.devices import free_disk_bytes, ram_bytes, this_machine
from mixcpt.planning.dry_run import OnStage, run_dry_run
from mixcpt.planning.load import Load, count_load
from mixcpt.planning.memory import activation_bytes, model_shape
from mixcpt.records.plan import Device, Memory, Plan, key_of_estimate, plan_key, save_plan
from mixcpt.records.run import run_identity
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_MAX_MIB_BYTES = 2**30
"""Size from which a number of bytes is printed in GiB."""
_MAX_REMEDIES = 4
_log = logging.getLogger("mixcpt.planning")


def plan_from_corpus(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """Estimate the cost of a run on this machine, in a second or two, and publish the plan.

    An error of the estimate does not stop the run: the artifact is then empty, and the log has the reason.
    """

    def make() -> Plan | None:
        try:
            load = count_load(config, base, store, corpus=corpus)
        except MixcptError as error:
            _log.warning("the cost of the run cannot be estimated: %s", error)
            return None
        return estimated_plan(load, this_machine(config.runtime, config.pretrain.precision))

    return save_plan(store, key_of_estimate(config, base, corpus), make)


def estimated_plan(load: Load, device: Device, *, price_per_hour: float = 0.0) -> Plan:
    """Return the plan by formulas: time from operations and an assumed speed, memory from the shape of the model."""
    config = load.config
    memory = estimates.estimate_memory(load, device)
    plan = Plan(
        name=config.name,
        basis="analytic",
        device=device,
        num_parameters=load.student.num_parameters,
        num_trained_parameters=load.student.num_trained,
        sources=load.workload.sources,
        stages=estimates.estimate_stages(load, device),
        memory=memory,
        disk=estimates.estimate_disk(load, free_disk_bytes(Path(config.runtime.store))),
        ram_bytes=estimates.estimate_host_memory(load, device, memory[0]),
        start_seconds=estimates.estimate_start_seconds(load, device),
        price_per_hour=price_per_hour,
    )
    return replace(plan, warnings=_warnings(load, plan, ram_bytes() if device.is_here else 0))


def measured_plan(load: Load, device: Device, *, price_per_hour: float = 0.0, on_stage: OnStage) -> Plan:
    """Run a dry run on this machine and return the plan with time and memory extrapolated from it.

    Raises:
        MixcptError: If a stage of the dry run fails.
    """
    estimate = estimated_plan(load, device, price_per_hour=price_per_hour)
    dry_run = run_dry_run(load, on_stage)
    stages = extrapolation.extrapolate(estimate.stages, load, dry_run)
    by_stage = {stage.stage: stage for stage in stages}
    memory = tuple(
        extrapolation.measured_memory(parts, by_stage[parts.stage], device)
        if by_stage[parts.stage].peak_memory_bytes
        else parts
        for parts in estimate.memory
    )
    plan = replace(
        estimate,
        basis="dry run",
        stages=stages,
        memory=memory,
        ram_bytes=estimates.estimate_host_memory(load, device, memory[0]),
        start_seconds=extrapolation.measured_start_seconds(dry_run),
    )
    return replace(plan, warnings=_warnings(load, plan, ram_bytes()))


def keep_plan(store: ArtifactStore, load: Load, plan: Plan) -> ArtifactRef:
    """Publish a plan in the store of its run and return its reference."""
    identity = run_identity(load.config, load.base, load.corpus.fingerprint)
    inputs = {"base": load.base.digest}
    if isinstance(load.corpus, ArtifactRef):
        inputs["corpus"] = load.corpus.digest
    now = datetime.now(UTC).isoformat()
    key = plan_key(identity, inputs, plan.device.name, plan.device.count, measured_at=now)
    return save_plan(store, key, lambda: plan)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `plan`."""
    return plan_from_corpus(AdaptConfig.model_validate(job.config), job.model("base"), job.artifact("corpus"), store)


def _warnings(load: Load, plan: Plan, host_bytes: int) -> tuple[str, ...]:
    """Return warnings about everything that does not fit; 0 `host_bytes` if the memory of the host is unknown."""
    return (*_device_warnings(load, plan), *_disk_warnings(load, plan), *_host_warnings(plan, host_bytes))


def _device_warnings(load: Load, plan: Plan) -> Iterator[str]:
    device, usable = plan.device, estimates.usable_bytes(plan.device)
    for memory in plan.memory:
        if memory.total <= usable:
            continue
        part, size = max(memory.parts.items(), key=lambda entry: entry[1])
        problem = (
            f"{memory.stage}: needs {_size(memory.total)} per device, {_size(usable)} of {device.name} are usable; "
            f"the largest part is {part} ({_size(size)})"
        )
        yield f"{problem}. {_remedies(load, device, memory, usable)}"


def _disk_warnings(load: Load, plan: Plan) -> Iterator[str]:
    disk = plan.disk
    if disk.total > disk.free:
        remedy = "Free some space, or set runtime.store to another disk"
        remedy += "; a lower pretrain.teacher.top_k makes the teacher's cache smaller" if disk.teacher_cache else ""
        needs = f"needs {_size(disk.total)} below {load.config.runtime.store}, {_size(disk.free)} are free"
        yield f"disk: {needs}. {remedy}"


def _host_warnings(plan: Plan, host_bytes: int) -> Iterator[str]:
    if (
        host_bytes
        and estimates.device_kind(plan.device) != "cpu"
        and plan.ram_bytes > host_bytes * estimates.USABLE_FRACTION
    ):
        yield (
            f"RAM: the processes of a host need {_size(plan.ram_bytes)} while they load, the host has "
            f"{_size(host_bytes)}. Use fewer processes per host, or pretrain.teacher adapter_off or cached"
        )


def _remedies(load: Load, device: Device, memory: Memory, usable: int) -> str:
    """Return the settings that reduce the memory of a stage, with their estimates; sufficient ones if there are any."""
    if memory.stage != "pretrained":
        return _alignment_remedy(load, memory.stage)
    # a dry run may have measured more than the estimate
    unexplained = memory.total - estimates.estimate_memory(load, device)[0].total
    estimated = {name: estimates.estimate_memory(other, device)[0].total for name, other in _alternatives(load)}
    totals = [(name, total + unexplained) for name, total in estimated.items()]
    smaller = sorted((entry for entry in totals if entry[1] < memory.total), key=lambda entry: entry[1])
    if not smaller:
        return "No setting of this run reduces it: use a larger device or a smaller model"
    sufficient = [entry for entry in reversed(smaller) if entry[1] <= usable]
    listed = "; ".join(f"{name} ({_size(total)})" for name, total in (sufficient or smaller)[:_MAX_REMEDIES])
    return (
        f"Enough by itself: {listed}" if sufficient else f"No single setting is enough; each of these helps: {listed}"
    )


def _alignment_remedy(load: Load, stage: str) -> str:
    """Return the settings that reduce the memory of a stage of alignment."""
    if stage == "selection":
        return "Set align.selection.precision to bf16, or align.selection.strategy to random, which scores nothing"
    config = load.config.align.sft if stage == "sft" else load.config.align.dpo
    remedies = [f"lower align.{stage}.batch_size or align.{stage}.max_tokens"]
    if config.scope.kind == "full":
        remedies.insert(0, f"set align.{stage}.scope to lora and align.{stage}.precision to bf16")
    if not config.gradient_checkpointing:
        remedies.append(f"set align.{stage}.gradient_checkpointing to true")
    return f"Remedies: {'; '.join(remedies)}"


def _alternatives(load: Load) -> Iterator[tuple[str, Load]]:
    """Yield the settings that save memory, and the load with each of them."""
    config = load.config.pretrain
    micro_rows = config.micro_batch_rows
    while micro_rows > 1:
        micro_rows = next(rows for rows in range(micro_rows - 1, 0, -1) if config.batch_rows % rows == 0)
        yield f"pretrain.micro_batch_rows={micro_rows}", _with_settings(load, {"micro_batch_rows": micro_rows})
    candidates: list[tuple[str, dict[str, object]]] = [
        ("pretrain.gradient_checkpointing=true", {"gradient_checkpointing": True}),
        ("pretrain.teacher.kind=cached", {"teacher": CachedTeacherConfig()}),
        ("pretrain.optimizer.state=int8", {"optimizer": config.optimizer.model_copy(update={"state": "int8"})}),
        ("pretrain.precision=bf16", {"precision": "bf16"}),
        ("pretrain.scope.kind=lora", {"scope": LoraScopeConfig()}),
        ("pretrain.scope.kind=lora with pretrain.teacher.kind=adapter_off",
         {"scope": LoraScopeConfig(), "teacher": AdapterOffTeacherConfig()}),
    ]  # fmt: skip
    for name, update in candidates:
        if _is_valid_change(config, update):
            yield name, _with_settings(load, update)
    runtime = load.config.runtime
    if runtime.num_processes > 1 and runtime.sharding == "none":
        sharded = load.config.model_copy(update={"runtime": runtime.model_copy(update={"sharding": "full"})})
        yield "runtime.sharding=full", replace(load, config=sharded)


def _is_valid_change(config: PretrainConfig, update: dict[str, object]) -> bool:
    """Return whether an update changes the settings and is compatible with the others."""
    changed = config.model_copy(update=update)
    if changed == config:
        return False
    try:
        PretrainConfig.model_validate(changed.model_dump(mode="json"))
    except ValueError:  # base class of pydantic's ValidationError
        return False
    return True


def _with_settings(load: Load, update: dict[str, object]) -> Load:
    """Return the load of a training with other settings, including the shape of its student."""
    pretrain = load.config.pretrain.model_copy(update=update)
    config: AdaptConfig = load.config.model_copy(update={"pretrain": pretrain})
    if not update.keys() & {"scope", "precision", "gradient_checkpointing"}:
        return replace(load, config=config)
    try:
        student = model_shape(load.base, pretrain)
    except MixcptError:  # adapters do not fit this model
        return load
    activations = activation_bytes(load.base, pretrain, config.mixture.row_tokens)
    return replace(load, config=config, student=student, student_activations=activations)


def _size(num_bytes: int) -> str:
    if abs(num_bytes) < _MAX_MIB_BYTES:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**30:.1f} GiB"
