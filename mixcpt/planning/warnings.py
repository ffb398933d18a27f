"""Warnings about everything that will not fit, with settings that would make it fit, each with its own estimate."""

from collections.abc import Iterator
from dataclasses import replace

from mixcpt.config import AdaptConfig, AdapterOffTeacherConfig, CachedTeacherConfig, LoraScopeConfig, PretrainConfig
from mixcpt.errors import MixcptError
from mixcpt.planning.estimates import device_kind, estimate_memory
from mixcpt.planning.load import Load
from mixcpt.planning.memory import CUDA_CONTEXT_BYTES
from mixcpt.planning.shape import activation_bytes, model_shape
from mixcpt.records.plan import Device, Memory, Plan

_USABLE_FRACTION = 0.95
"""Usable fraction of a device's memory; the rest is lost to fragmentation."""
_MAX_MIB_BYTES = 2**30
"""Size from which a number of bytes is printed in GiB."""
_MAX_REMEDIES = 4


def fit_warnings(load: Load, plan: Plan, ram_bytes: int) -> tuple[str, ...]:
    """Return a warning for device memory, disk and host memory, if the plan needs more than available.

    Args:
        load: Load of the run.
        plan: Plan of the run; its own warnings are ignored.
        ram_bytes: Memory of the host; 0 if unknown.
    """
    return (*_device_warnings(load, plan), *_disk_warnings(load, plan), *_host_warnings(plan, ram_bytes))


def usable_bytes(device: Device) -> int:
    """Return the memory of a device that tensors can use, in bytes."""
    context_bytes = 0 if device_kind(device) == "cpu" else CUDA_CONTEXT_BYTES
    return round(device.memory_bytes * _USABLE_FRACTION) - context_bytes


def _device_warnings(load: Load, plan: Plan) -> Iterator[str]:
    device, usable = plan.device, usable_bytes(plan.device)
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


def _host_warnings(plan: Plan, ram_bytes: int) -> Iterator[str]:
    if ram_bytes and device_kind(plan.device) != "cpu" and plan.ram_bytes > ram_bytes * _USABLE_FRACTION:
        yield (
            f"RAM: the processes of a host need {_size(plan.ram_bytes)} while they load, the host has "
            f"{_size(ram_bytes)}. Use fewer processes per host, or pretrain.teacher adapter_off or cached"
        )


def _remedies(load: Load, device: Device, memory: Memory, usable: int) -> str:
    """Return the settings that reduce the memory of a stage, with their estimates; sufficient ones if there are any."""
    if memory.stage != "pretrained":
        keys = f"align.{memory.stage}.batch_size or align.{memory.stage}.max_tokens"
        return f"Lower {keys}: alignment trains all parameters on one device"
    # a dry run may have measured more than the estimate
    unexplained = memory.total - estimate_memory(load, device)[0].total
    totals = [(name, estimate_memory(other, device)[0].total + unexplained) for name, other in _alternatives(load)]
    smaller = sorted(((name, total) for name, total in totals if total < memory.total), key=lambda entry: entry[1])
    if not smaller:
        return "No setting of this run reduces it: use a larger device or a smaller model"
    sufficient = [entry for entry in reversed(smaller) if entry[1] <= usable]
    listed = "; ".join(f"{name} ({_size(total)})" for name, total in (sufficient or smaller)[:_MAX_REMEDIES])
    return (
        f"Enough by itself: {listed}" if sufficient else f"No single setting is enough; each of these helps: {listed}"
    )


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
