"""What will not fit, and which settings would change that: each of them reckoned, not guessed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mixcpt.config import AdaptConfig, AdapterOffTeacher, CachedTeacher, LoraScope, PretrainConfig
from mixcpt.errors import MixcptError
from mixcpt.planning.estimates import device_kind, memories
from mixcpt.planning.load import Load
from mixcpt.planning.memory import CUDA_CONTEXT_BYTES
from mixcpt.planning.shape import activation_bytes, model_shape
from mixcpt.records.plan import Device, Disk, Memory

_USABLE = 0.95
"""Of a device's memory: the rest is lost between blocks."""
_FEW_BYTES = 2**30


def misfits(load: Load, device: Device, memory: Sequence[Memory], disk: Disk, host: int, ram: int) -> tuple[str, ...]:
    """Returns a sentence for everything that does not fit.

    Args:
        load: Of the run.
        device: That it is planned for.
        memory: Of each stage that trains, on each device.
        disk: What it writes.
        host: Memory that a host's processes hold, in bytes.
        ram: What the host has; 0 where nobody knows.
    """
    return (*_of_device(load, device, memory), *_of_disk(load, disk), *_of_ram(device, host, ram))


def usable_bytes(device: Device) -> int:
    """Returns what tensors may have of a device's memory."""
    context = 0 if device_kind(device) == "cpu" else CUDA_CONTEXT_BYTES
    return round(device.memory_bytes * _USABLE) - context


def _of_device(load: Load, device: Device, memory: Sequence[Memory]) -> Iterator[str]:
    room = usable_bytes(device)
    for of in memory:
        if of.total <= room:
            continue
        name, size = max(of.parts.items(), key=lambda part: part[1])
        found = (
            f"{of.stage}: {_gib(of.total)} are needed on each device, {_gib(room)} of {device.name} can be used; "
            f"most of it for {name} ({_gib(size)})"
        )
        yield f"{found}. {_remedies(load, device, of, room)}"


def _of_disk(load: Load, disk: Disk) -> Iterator[str]:
    if disk.total > disk.free:
        hint = "; a lower pretrain.teacher.top_k makes the teacher's cache smaller" if disk.teacher_cache else ""
        yield (
            f"disk: {_gib(disk.total)} will be written below {load.config.runtime.store}, where {_gib(disk.free)} are "
            f"left. Make room, or point runtime.store at another disk{hint}"
        )


def _of_ram(device: Device, host: int, ram: int) -> Iterator[str]:
    if ram and device_kind(device) != "cpu" and host > ram * _USABLE:
        yield (
            f"RAM: the processes of a host will hold {_gib(host)} while they load, and it has {_gib(ram)}. "
            "Use fewer processes a host, or pretrain.teacher adapter_off or cached"
        )


def _remedies(load: Load, device: Device, short: Memory, room: int) -> str:
    """Returns what to change, each with what would then be needed; what suffices by itself first."""
    if short.stage != "pretrained":
        batch = f"align.{short.stage}.batch_size"
        return f"Lower {batch} or align.{short.stage}.max_tokens: alignment trains all of the model on one device"
    more = short.total - memories(load, device)[0].total  # that a trial measured beyond the formulas
    found = [(what, memories(changed, device)[0].total + more) for what, changed in _changed(load)]
    less = sorted(((what, total) for what, total in found if total < short.total), key=lambda each: each[1])
    if not less:
        return "No setting of this run changes that: take a larger device, or a smaller model"
    enough = [each for each in reversed(less) if each[1] <= room]
    listed = "; ".join(f"{what} ({_gib(total)})" for what, total in (enough or less)[:4])
    return f"Enough by itself: {listed}" if enough else f"No single setting is enough; each of these helps: {listed}"


def _changed(load: Load) -> Iterator[tuple[str, Load]]:
    """Yields the settings that save memory, and the load with each of them."""
    config = load.config.pretrain
    micro = config.micro_batch_rows
    while micro > 1:
        micro = next(rows for rows in range(micro - 1, 0, -1) if config.batch_rows % rows == 0)
        yield f"pretrain.micro_batch_rows={micro}", _with(load, {"micro_batch_rows": micro})
    candidates: list[tuple[str, dict[str, object]]] = [
        ("pretrain.gradient_checkpointing=true", {"gradient_checkpointing": True}),
        ("pretrain.teacher.kind=cached", {"teacher": CachedTeacher()}),
        ("pretrain.optimizer.state=int8", {"optimizer": config.optimizer.model_copy(update={"state": "int8"})}),
        ("pretrain.precision=bf16", {"precision": "bf16"}),
        ("pretrain.scope.kind=lora", {"scope": LoraScope()}),
        ("pretrain.scope.kind=lora with pretrain.teacher.kind=adapter_off",
         {"scope": LoraScope(), "teacher": AdapterOffTeacher()}),
    ]  # fmt: skip
    for what, update in candidates:
        if changed := _valid(config, update):
            yield what, _with(load, changed)
    processes = load.config.runtime.num_processes
    if processes > 1 and load.config.runtime.sharding == "none":
        runtime = load.config.runtime.model_copy(update={"sharding": "full"})
        yield "runtime.sharding=full", replace(load, config=load.config.model_copy(update={"runtime": runtime}))


def _valid(config: PretrainConfig, update: dict[str, object]) -> dict[str, object]:
    """Returns the update where it changes something and goes with the other settings, else nothing."""
    changed = config.model_copy(update=update)
    if changed == config:
        return {}
    try:
        PretrainConfig.model_validate(changed.model_dump(mode="json"))
    except ValueError:  # what pydantic raises
        return {}
    return update


def _with(load: Load, update: dict[str, object]) -> Load:
    """Returns the load of a training with other settings, its model and its activations with it."""
    pretrain = load.config.pretrain.model_copy(update=update)
    config: AdaptConfig = load.config.model_copy(update={"pretrain": pretrain})
    if not update.keys() & {"scope", "precision", "gradient_checkpointing"}:
        return replace(load, config=config)
    try:
        shape = model_shape(load.base, pretrain)
    except MixcptError:  # adapters do not fit this model
        return load
    return replace(
        load, config=config, shape=shape, activations=activation_bytes(load.base, pretrain, config.mixture.row_tokens)
    )


def _gib(num_bytes: int) -> str:
    if abs(num_bytes) < _FEW_BYTES:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**30:.1f} GiB"
