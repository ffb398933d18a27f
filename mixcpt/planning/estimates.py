"""Estimates operations, time, memory and disk of every stage by formulas, from the load of a run and its device."""

from collections.abc import Iterator

from mixcpt.config import DpoConfig, SelectionConfig, SftConfig
from mixcpt.distill.teacher_cache import cache_bytes
from mixcpt.planning.load import AlignmentLoad, Load
from mixcpt.planning.memory import (
    CUDA_CONTEXT_BYTES,
    DeviceKind,
    Sharing,
    alignment_memory,
    optimizer_bytes,
    pretraining_memory,
    selection_memory,
    teacher_runs,
)
from mixcpt.records.plan import Device, Disk, Memory, StagePlan

_DISK_BYTES_PER_SECOND = 500e6
_DECODING_SECONDS = 1e-3
"""Time of one decoding step per layer to launch its operations, on any device."""
_START_SECONDS = 6.0
"""Time to start a process and import its libraries."""
_SET_UP_SECONDS = 2.0
"""Time of SFT, DPO or an evaluation to load models and further libraries."""
_CANDIDATE_SECONDS = 2e-3
"""Time to render and tokenize one candidate with the chat template."""
_MIXTURE_BYTES_PER_TOKEN = 8
"""Bytes per token of the compressed rows: ids, labels, positions, sources and indices."""
_NUM_CHECKPOINTS_AT_ONCE = 3
"""Peak number of checkpoints: two are kept, and a third is written before the oldest is removed."""
_ROWS_BYTES_PER_TOKEN = 44
"""Bytes per token of a mixture in memory: 22, twice while it is read."""
_LIBRARY_BYTES = 3 * 2**30
"""Host memory of the libraries of a process that uses a GPU."""
DEVICES_PER_HOST = 8
USABLE_FRACTION = 0.95
"""Usable fraction of a device's memory; the rest is lost to fragmentation."""


def device_kind(device: Device) -> DeviceKind:
    """Return the kind of a device: `cpu` or `cuda`."""
    return "cpu" if device.name == "cpu" else "cuda"


def usable_bytes(device: Device) -> int:
    """Return the memory of a device that tensors can use, in bytes."""
    context_bytes = 0 if device_kind(device) == "cpu" else CUDA_CONTEXT_BYTES
    return round(device.memory_bytes * USABLE_FRACTION) - context_bytes


def estimate_stages(load: Load, device: Device) -> tuple[StagePlan, ...]:
    """Return the cost of every stage in order; its time is operations divided by the assumed speed of the device."""
    return (
        *_preparation(load, device),
        _pretraining(load, device),
        *_alignment(load, device),
        *_evaluations(load, device),
    )


def estimate_memory(load: Load, device: Device) -> tuple[Memory, ...]:
    """Return the peak memory of the stages that train; pre-training is the first."""
    config, alignment = load.config, load.alignment
    pretraining = pretraining_memory(
        load.student,
        load.student_activations,
        config.pretrain,
        row_tokens=config.mixture.row_tokens,
        student_rows_per_row=load.workload.student_rows_per_row,
        sharing=Sharing.of(config.runtime, DEVICES_PER_HOST),
        device=device_kind(device),
    )
    if alignment is None:
        return (pretraining,)
    # without a GPU, selection shares the process of SFT and DPO
    selection = (_selection_memory(load, alignment),) if device_kind(device) == "cuda" else ()
    stages = (
        alignment_memory(
            stage,
            stage_load.shape,
            stage_load.activations,
            stage_load.config,
            longest_tokens=stage_load.longest_tokens,
            row_tokens=config.mixture.row_tokens,
            scored_tokens=alignment.candidate_tokens,
            num_processes=config.runtime.num_processes,
            sharing=Sharing.of(config.runtime, DEVICES_PER_HOST),
            device=device_kind(device),
        )
        for stage, stage_load in alignment.stages.items()
    )
    return (pretraining, *selection, *stages)


def _selection_memory(load: Load, alignment: AlignmentLoad) -> Memory:
    return selection_memory(
        load.full_model,
        alignment.selection,
        longest_tokens=alignment.longest_tokens,
        scored_tokens=alignment.candidate_tokens,
        device="cuda",
    )


def estimate_disk(load: Load, free_bytes: int) -> Disk:
    """Return the disk space that the run takes in its store."""
    config, shape = load.config, load.student
    weights = shape.num_base * 4
    trained_weights = shape.num_trained * 4 if config.pretrain.scope.kind == "lora" else weights
    checkpoint = trained_weights + optimizer_bytes(shape, config.pretrain.optimizer.state)
    alignment_stages = load.alignment.stages.values() if load.alignment else ()
    alignment_checkpoints = [
        4 * stage.shape.num_trained + optimizer_bytes(stage.shape, stage.config.optimizer.state)
        for stage in alignment_stages
    ]
    teacher, teacher_cache = config.pretrain.teacher, 0
    if teacher.kind == "cached" and config.pretrain.uses_cache:
        teacher_cache = cache_bytes(load.workload.cached_tokens, min(teacher.top_k, shape.vocab), shape.vocab)
    return Disk(
        mixture=load.workload.tokens * _MIXTURE_BYTES_PER_TOKEN,
        checkpoints=_NUM_CHECKPOINTS_AT_ONCE * max(checkpoint, *alignment_checkpoints, 0),
        models=weights * (1 + len(alignment_stages)),
        teacher_cache=teacher_cache,
        free=free_bytes,
    )


def estimate_host_memory(load: Load, device: Device, pretraining: Memory) -> int:
    """Return the peak memory of one host for all training processes, in bytes.

    On a CPU, this includes the memory of pre-training itself. With GPUs, each process loads the weights of student and
    teacher before it copies them to its device, and holds the libraries and the rows.
    """
    rows = load.workload.tokens * _ROWS_BYTES_PER_TOKEN
    num_processes = min(load.config.runtime.num_processes, DEVICES_PER_HOST)
    if device_kind(device) == "cpu":
        return (pretraining.total + rows) * num_processes
    weights = load.student.num_parameters * 4 + (load.student.num_base * 4 if pretraining.teacher else 0)
    return (weights + rows + _LIBRARY_BYTES) * num_processes


def estimate_start_seconds(load: Load, device: Device) -> float:
    """Return the assumed time to start processes: one per group of stages; without a GPU, all are forked from one."""
    num_groups = 4 + load.config.runtime.is_distributed + (load.alignment is not None)
    return _START_SECONDS * (1 if device_kind(device) == "cpu" else num_groups)


def data_bytes(num_tokens: int) -> int:
    """Return the memory of the rows of a training, in bytes."""
    return num_tokens * _ROWS_BYTES_PER_TOKEN


def num_checkpoints(steps: int, every: int) -> int:
    """Return the number of checkpoints of a training: one every `every` steps, and one at the end."""
    return steps // every + (steps % every > 0)


def probing_flops(load: Load) -> int:
    """Return the operations of all measurements of the probe during training; 0 if the settings promise nothing."""
    if not load.config.promised_tasks:
        return 0
    num_measurements = load.workload.steps // load.config.pretrain.retention.check_steps + 1
    return num_measurements * 2 * load.full_model.multiplied * _probe_tokens(load)


def _probe_tokens(load: Load) -> int:
    probe_fraction = load.config.evaluate.splits.probe_fraction
    promised = [task for task in load.tasks if task.name in load.config.promised_tasks]
    return round(probe_fraction * sum(task.tokens for task in promised))


def _speed(device: Device) -> float:
    return device.peak_flops * device.utilisation


def _fp32_speed(device: Device) -> float:
    return device.fp32_flops * device.utilisation


def _preparation(load: Load, device: Device) -> Iterator[StagePlan]:
    """Yield curation, mixing, teacher cache and probe."""
    yield StagePlan(stage="corpus", seconds=sum(sample.read_seconds for sample in load.samples))
    yield StagePlan(stage="mixture", seconds=load.workload.mix_seconds)
    if load.config.pretrain.uses_cache:
        flops = 2 * load.full_model.multiplied * load.workload.cached_tokens
        yield StagePlan(stage="teacher", seconds=flops / _speed(device), teacher_flops=flops)
    if load.config.promised_tasks:
        flops = 2 * load.full_model.multiplied * _probe_tokens(load)
        yield StagePlan(stage="probe", seconds=flops / _fp32_speed(device), student_flops=flops)


def _pretraining(load: Load, device: Device) -> StagePlan:
    config, workload, shape = load.config.pretrain, load.workload, load.student
    student_flops = workload.student_tokens * shape.flops_per_token
    teacher_flops = 2 * shape.multiplied * workload.teacher_tokens if teacher_runs(config) else 0
    train_seconds = (student_flops + teacher_flops) / (_speed(device) * device.count)
    checkpoint_bytes = shape.num_base * 4 + shape.num_trained * 8
    written_bytes = num_checkpoints(workload.steps, config.checkpoint_steps) * checkpoint_bytes
    probing_seconds = probing_flops(load) / _fp32_speed(device)
    return StagePlan(
        stage="pretrained",
        seconds=train_seconds + written_bytes / _DISK_BYTES_PER_SECOND + probing_seconds,
        tokens=workload.tokens,
        steps=workload.steps,
        rows=workload.rows,
        student_flops=student_flops,
        teacher_flops=teacher_flops,
        peak_memory_bytes=estimate_memory(load, device)[0].total,
    )


def _alignment(load: Load, device: Device) -> Iterator[StagePlan]:
    """Yield selection, SFT and DPO, without the stages that are skipped."""
    alignment = load.alignment
    if alignment is None:
        return
    forward_flops = 2 * load.full_model.multiplied
    scoring_flops = forward_flops * alignment.candidate_tokens
    scoring_seconds = scoring_flops / _alignment_speed(device, alignment.selection)
    rendering_seconds = alignment.num_candidates * _CANDIDATE_SECONDS
    yield StagePlan(stage="selection", seconds=rendering_seconds + scoring_seconds, student_flops=scoring_flops)
    peaks = {memory.stage: memory.total for memory in estimate_memory(load, device)}
    for stage, stage_load in alignment.stages.items():
        student_flops = stage_load.shape.flops_per_token * stage_load.tokens
        # DPO runs the reference model once per sample, SFT has none
        num_epochs = load.config.align.dpo.epochs
        reference_flops = forward_flops * stage_load.tokens // num_epochs if stage == "dpo" else 0
        speed = _alignment_speed(device, stage_load.config) * device.count
        yield StagePlan(
            stage=stage,
            seconds=_SET_UP_SECONDS + (student_flops + reference_flops) / speed,
            tokens=stage_load.tokens,
            steps=stage_load.steps,
            rows=stage_load.num_samples,
            student_flops=student_flops,
            teacher_flops=reference_flops,
            peak_memory_bytes=peaks[stage],
        )


def _alignment_speed(device: Device, config: SelectionConfig | SftConfig | DpoConfig) -> float:
    return _speed(device) if config.precision == "bf16" else _fp32_speed(device)


def _evaluations(load: Load, device: Device) -> Iterator[StagePlan]:
    """Yield the evaluations of all models."""
    evaluate = load.config.evaluate
    yield _evaluation(load, device, "base", passes=1)
    if evaluate.has_open_book:
        yield _evaluation(load, device, "open-book", passes=2, domain_only=True)
    # without alignment, the pre-trained model is the final one
    for role in ("pretrained", "final") if load.alignment else ("pretrained",):
        yield _evaluation(load, device, role, passes=1 + evaluate.kl_to_base)


def _evaluation(load: Load, device: Device, role: str, *, passes: int, domain_only: bool = False) -> StagePlan:
    """Return the cost of an evaluation: reading takes operations, writing loads all weights once per token."""
    model, batch_size = load.full_model, load.config.evaluate.batch_size
    tasks = [task for task in load.tasks if task.is_domain_question or not domain_only]
    flops = 2 * model.multiplied * sum(task.tokens for task in tasks) * passes
    decoding_steps = sum(-(-task.items // batch_size) * task.written_tokens for task in tasks)
    step_seconds = model.num_layers * _DECODING_SECONDS + model.num_base * 4 / device.bytes_per_second
    seconds = _SET_UP_SECONDS + flops / _fp32_speed(device) + decoding_steps * step_seconds
    return StagePlan(stage=f"evaluation of {role}", seconds=seconds, student_flops=flops)
