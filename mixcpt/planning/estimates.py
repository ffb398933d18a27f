"""From what is counted to stages with operations, time and memory, on a device of which the figures are known."""

from collections.abc import Iterator

from mixcpt.distill.teacher_cache import cache_bytes
from mixcpt.planning.load import Load
from mixcpt.planning.memory import (
    DeviceKind,
    Sharing,
    alignment_memory,
    optimizer_bytes,
    pretraining_memory,
    teacher_runs,
)
from mixcpt.records.plan import Device, Disk, Memory, StagePlan

_DISK_BYTES_PER_SECOND = 500e6
_DECODING_SECONDS = 1e-3
"""Of one decoding step a layer, whatever the device: the time of starting its operations."""
_START_SECONDS = 6.0
"""Of a process: importing libraries."""
_SET_UP_SECONDS = 2.0
"""Of SFT, DPO and an evaluation: loading models, more libraries."""
_CANDIDATE_SECONDS = 2e-3
"""Of rendering a candidate in the chat form and tokenising it."""
_MIXTURE_BYTES_PER_TOKEN = 8
"""Rows as they are written: ids, labels, positions, sources and indices, compressed."""
_NUM_CHECKPOINTS_AT_ONCE = 3
"""Two are kept, and a third is written before the older of them goes."""
_ROWS_BYTES_PER_TOKEN = 44
"""A mixture in memory: 22 bytes a token, twice while it is read."""
DEVICES_PER_HOST = 8


def device_kind(device: Device) -> DeviceKind:
    """Returns whether a device is a CPU."""
    return "cpu" if device.name == "cpu" else "cuda"


def stages(load: Load, device: Device) -> tuple[StagePlan, ...]:
    """Returns every stage in order; seconds from operations and the speed that the device is assumed to reach."""
    return (*_preparing(load, device), _pretraining(load, device), *_aligning(load, device), *_asking(load, device))


def memories(load: Load, device: Device) -> tuple[Memory, ...]:
    """Returns what fills each device, of each stage that trains."""
    config, kind = load.config, device_kind(device)
    row_tokens = config.mixture.row_tokens
    found = [
        pretraining_memory(
            load.shape,
            load.activations,
            config.pretrain,
            row_tokens=row_tokens,
            student_rows_per_row=load.reading.student_rows_per_row,
            sharing=Sharing.of(config.runtime, DEVICES_PER_HOST),
            device=kind,
        )
    ]
    aligned = load.alignment
    for stage, of, settings in (
        ("sft", aligned and aligned.sft, config.align.sft),
        ("dpo", aligned and aligned.dpo, config.align.dpo),
    ):
        if of:
            found.append(
                alignment_memory(
                    stage,  # type: ignore[arg-type]
                    load.plain,
                    load.plain_activations,
                    settings,
                    longest_tokens=of.longest_tokens,
                    row_tokens=row_tokens,
                    scored_tokens=aligned.candidate_tokens if aligned else 0,
                    device=kind,
                )
            )
    return tuple(found)


def disk(load: Load, free: int) -> Disk:
    """Returns what the run writes into its store."""
    config, shape = load.config, load.shape
    weights = shape.num_base * 4
    trained = shape.num_trained * 4 if config.pretrain.scope.kind == "lora" else weights
    checkpoint = trained + optimizer_bytes(shape, config.pretrain.optimizer.state)
    aligned = [of for of in (load.alignment.sft, load.alignment.dpo) if of] if load.alignment else []
    of_alignment = weights + 8 * shape.num_base if aligned else 0
    cached = config.pretrain.teacher
    cache = (
        cache_bytes(load.reading.cached_tokens, min(cached.top_k, shape.vocab), shape.vocab)
        if config.pretrain.uses_cache and cached.kind == "cached"
        else 0
    )
    return Disk(
        load.reading.tokens * _MIXTURE_BYTES_PER_TOKEN,
        _NUM_CHECKPOINTS_AT_ONCE * max(checkpoint, of_alignment),
        weights * (1 + len(aligned)),
        cache,
        free,
    )


def host_bytes(load: Load, device: Device, memory: Memory) -> int:
    """Returns the memory of a host that its training processes hold at most.

    On a CPU that is the device's own. With GPUs, each process reads the weights of student and teacher into memory
    before it hands them over, and holds the libraries and the rows.
    """
    runtime = load.config.runtime
    rows = load.reading.tokens * _ROWS_BYTES_PER_TOKEN
    processes = min(runtime.num_processes, DEVICES_PER_HOST)
    if device_kind(device) == "cpu":
        return (memory.total + rows) * processes
    weights = load.shape.num_parameters * 4 + (load.shape.num_base * 4 if memory.teacher else 0)
    return (weights + rows + 3 * 2**30) * processes


def start_seconds(load: Load, device: Device) -> float:
    """Returns what starting processes takes, as assumed: one for each group of stages, which without a GPU are forked
    from a single one."""
    separate = load.config.runtime.is_distributed
    groups = 4 + separate + (load.alignment is not None)
    return _START_SECONDS * (1 if device_kind(device) == "cpu" else groups)


def data_bytes(load: Load, num_tokens: int) -> int:
    """Returns what the rows of so many tokens take in the memory of a training."""
    return num_tokens * _ROWS_BYTES_PER_TOKEN


def num_checkpoints(steps: int, every: int) -> int:
    """Returns how many checkpoints a training writes; one at the end in any case."""
    return steps // every + (steps % every > 0)


def _speed(device: Device) -> float:
    return device.peak_flops * device.utilisation


def _slow_speed(device: Device) -> float:
    return device.fp32_flops * device.utilisation


def _preparing(load: Load, device: Device) -> Iterator[StagePlan]:
    """Yields curation, mixing, and what a training needs beside the mixture."""
    yield StagePlan("corpus", sum(sample.read_seconds for sample in load.samples))
    yield StagePlan("mixture", load.reading.mix_seconds)
    if load.config.pretrain.uses_cache:
        flops = 2 * load.plain.multiplied * load.reading.cached_tokens
        yield StagePlan("teacher", flops / _speed(device), teacher_flops=flops)
    if load.config.promised_tasks:
        flops = 2 * load.plain.multiplied * _probe_tokens(load)
        yield StagePlan("probe", flops / _slow_speed(device), student_flops=flops)


def _pretraining(load: Load, device: Device) -> StagePlan:
    config, reading, shape = load.config.pretrain, load.reading, load.shape
    student = reading.student_tokens * shape.flops_per_token
    teacher = 2 * shape.multiplied * reading.teacher_tokens if teacher_runs(config) else 0
    seconds = (student + teacher) / (_speed(device) * device.count)
    written = num_checkpoints(reading.steps, config.checkpoint_steps) * (shape.num_base * 4 + shape.num_trained * 8)
    return StagePlan(
        "pretrained",
        seconds + written / _DISK_BYTES_PER_SECOND + probing_flops(load) / _slow_speed(device),
        tokens=reading.tokens,
        steps=reading.steps,
        rows=reading.rows,
        student_flops=student,
        teacher_flops=teacher,
        peak_memory_bytes=memories(load, device)[0].total,
    )


def probing_flops(load: Load) -> int:
    """Returns the operations of looking at the probe while training; 0 where nothing is promised."""
    if not load.config.promised_tasks:
        return 0
    looks = load.reading.steps // load.config.pretrain.retention.check_steps + 1
    return looks * 2 * load.plain.multiplied * _probe_tokens(load)


def _probe_tokens(load: Load) -> int:
    share = load.config.evaluate.splits.probe_fraction
    asked = [task for task in load.tasks if task.name in load.config.promised_tasks]
    return round(share * sum(task.tokens for task in asked))


def _aligning(load: Load, device: Device) -> Iterator[StagePlan]:
    aligned = load.alignment
    if aligned is None:
        return
    forward, speed = 2 * load.plain.multiplied, _slow_speed(device)
    scored = forward * aligned.candidate_tokens
    rendering = aligned.num_candidates * _CANDIDATE_SECONDS
    yield StagePlan("selection", rendering + scored / speed, student_flops=scored)
    peaks = {memory.stage: memory.total for memory in memories(load, device)}
    if of := aligned.sft:
        flops = 3 * forward * of.tokens
        yield StagePlan(
            "sft", _SET_UP_SECONDS + flops / speed, of.tokens, of.steps, of.num_samples, flops, 0, peaks["sft"]
        )
    if of := aligned.dpo:
        flops, once = 3 * forward * of.tokens, forward * of.tokens // load.config.align.dpo.epochs
        seconds = _SET_UP_SECONDS + (flops + once) / speed
        yield StagePlan("dpo", seconds, of.tokens, of.steps, of.num_samples, flops, once, peaks["dpo"])


def _asking(load: Load, device: Device) -> Iterator[StagePlan]:
    """Yields the evaluations: reading is counted, writing takes the weights through the memory once a token."""
    evaluate = load.config.evaluate
    yield _evaluation(load, device, "base", passes=1)
    if evaluate.has_open_book:
        yield _evaluation(load, device, "open-book", passes=2, domain_only=True)
    for role in ("pretrained", "final") if load.alignment else ("pretrained",):  # without, they are one model
        yield _evaluation(load, device, role, passes=1 + evaluate.kl_to_base)


def _evaluation(load: Load, device: Device, role: str, *, passes: int, domain_only: bool = False) -> StagePlan:
    asked = [task for task in load.tasks if task.is_domain_question or not domain_only]
    flops = 2 * load.plain.multiplied * sum(task.tokens for task in asked) * passes
    batches = sum(-(-task.items // load.config.evaluate.batch_size) * task.written_tokens for task in asked)
    step = load.plain.num_layers * _DECODING_SECONDS + load.plain.num_base * 4 / device.bytes_per_second
    seconds = _SET_UP_SECONDS + flops / _slow_speed(device) + batches * step
    return StagePlan(f"evaluation of {role}", seconds, student_flops=flops)
