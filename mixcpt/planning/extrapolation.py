"""Extrapolates a dry run: one-time costs stay, costs per step, sample and question grow with their number."""

from dataclasses import replace
from statistics import fmean

import torch

from mixcpt.planning.dry_run import COLD_EVALUATION, SHORT_EVALUATION, DryRun, MeasuredStage
from mixcpt.planning.estimates import data_bytes, device_kind, num_checkpoints, probing_flops
from mixcpt.planning.load import Load
from mixcpt.process.devices import usable_devices
from mixcpt.records.plan import Device, Memory, StagePlan

_JOBS = {"teacher": "cache", "pretrained": "pretrain", "selection": "select", "sft": "sft", "dpo": "dpo"}
"""Job of the dry run that measures a stage; the other stages are too short to matter."""
_MIN_ALIGNMENT_CHECKPOINT_STEPS = 10
_NUM_ALIGNMENT_CHECKPOINTS = 10
_EVALUATION_PREFIX = "evaluation of "
_CHECKPOINT_SHARE = 0.75
"""Share of the checkpoint in the bytes written after the last step: it has weights and two means, the model weights."""


def extrapolate(estimates: tuple[StagePlan, ...], load: Load, dry_run: DryRun) -> tuple[StagePlan, ...]:
    """Return the stages with time and peak memory extrapolated from a dry run."""
    return tuple(_stage(estimate, load, dry_run) for estimate in estimates)


def measured_start_seconds(dry_run: DryRun) -> float:
    """Return the time to start processes and import libraries, for all processes of the run."""
    extra = (COLD_EVALUATION, SHORT_EVALUATION)
    starts = [stage.start_seconds for name, stage in dry_run.stages.items() if name not in extra]
    # one process evaluates before the training, another one after it
    return sum(starts) + 2 * dry_run.stages[COLD_EVALUATION].start_seconds


def measured_memory(estimate: Memory, stage: StagePlan, device: Device) -> Memory:
    """Return the parts of the memory with the measured total; the difference is added to process or activations."""
    difference = stage.peak_memory_bytes - (estimate.total - estimate.process)
    if device_kind(device) == "cpu" and difference > 0:
        return replace(estimate, process=difference)
    return replace(estimate, process=0, activations=max(estimate.activations + difference, 0))


def _stage(estimate: StagePlan, load: Load, dry_run: DryRun) -> StagePlan:
    if estimate.stage.startswith(_EVALUATION_PREFIX):
        role = estimate.stage.removeprefix(_EVALUATION_PREFIX)
        return replace(estimate, seconds=_evaluation_seconds(role, load, dry_run))
    measured = dry_run.stages.get(_JOBS.get(estimate.stage, ""))
    if measured is None:
        return estimate
    match estimate.stage:
        case "teacher":
            seconds = measured.seconds * load.workload.cached_tokens / measured.metrics["tokens"]
            return replace(estimate, seconds=seconds)
        case "selection":
            return replace(estimate, seconds=_selection_seconds(load, measured, dry_run))
        case "pretrained":
            seconds = _pretraining_seconds(estimate, load, measured, dry_run)
            extra_memory = _extra_data_bytes(load, dry_run)
        case _:
            seconds = _alignment_seconds(estimate, measured)
            extra_memory = 0
    peak = round(measured.metrics["peak_memory_bytes"]) + extra_memory
    return replace(estimate, seconds=seconds, peak_memory_bytes=peak)


def _extra_data_bytes(load: Load, dry_run: DryRun) -> int:
    """Return the bytes of the rows that the run has more than the dry run, if they share the memory of the model."""
    if torch.cuda.is_available():
        return 0
    return max(0, data_bytes(load.workload.tokens) - data_bytes(dry_run.config.mixture.total_tokens))


def _pretraining_seconds(estimate: StagePlan, load: Load, measured: MeasuredStage, dry_run: DryRun) -> float:
    """Return one-time cost + steps + checkpoints after the first + measurements of the probe."""
    config = load.config.pretrain
    measured_step = fmean(measured.step_seconds)
    step_seconds = measured_step * config.batch_rows / dry_run.config.pretrain.batch_rows
    train_seconds = measured_step * measured.metrics["steps"]
    once = max(measured.seconds - train_seconds, 0.0)
    checkpoint_seconds = _CHECKPOINT_SHARE * measured.seconds_after_training
    further_checkpoints = num_checkpoints(estimate.steps, config.checkpoint_steps) - 1
    probing_seconds = probing_flops(load) * train_seconds / max(measured.metrics["flops"], 1.0)
    return once + step_seconds * estimate.steps + further_checkpoints * checkpoint_seconds + probing_seconds


def _selection_seconds(load: Load, measured: MeasuredStage, dry_run: DryRun) -> float:
    if load.alignment is None:
        return measured.seconds
    max_drawn = dry_run.config.align.selection.num_candidates
    pools = {"instructions", "preferences"}
    num_measured = sum(min(max_drawn, len(sample.records)) for sample in load.samples if sample.pool in pools)
    return measured.seconds * max(1.0, load.alignment.num_candidates / max(num_measured, 1))


def _alignment_seconds(estimate: StagePlan, measured: MeasuredStage) -> float:
    """Return one-time cost + steps + reference of the further samples + checkpoints after the first, for SFT or DPO.

    The one-time cost of DPO includes one forward pass of the reference per sample, a third of a training step's time.
    """
    steps = round(measured.metrics["steps"])
    measured_samples = measured.metrics["num_samples"]
    step_seconds = fmean(measured.step_seconds) if measured.step_seconds else measured.metrics["train_seconds"] / steps
    once = max(measured.seconds - step_seconds * steps, 0.0)
    further_samples = estimate.rows - measured_samples
    reference = step_seconds * steps / 3 * further_samples / measured_samples if estimate.stage == "dpo" else 0.0
    checkpoint_steps = max(_MIN_ALIGNMENT_CHECKPOINT_STEPS, -(-estimate.steps // _NUM_ALIGNMENT_CHECKPOINTS))
    further_checkpoints = num_checkpoints(estimate.steps, checkpoint_steps) - 1
    checkpoint_seconds = _CHECKPOINT_SHARE * measured.seconds_after_training
    return once + step_seconds * estimate.steps + reference + further_checkpoints * checkpoint_seconds


def _evaluation_seconds(role: str, load: Load, dry_run: DryRun) -> float:
    """Return import of libraries (first evaluation of a process) + one-time cost + questions."""
    job = "pretrained" if role == "final" else role
    measured, short = dry_run.stages[f"evaluate-{job}"], dry_run.stages[SHORT_EVALUATION]
    cold = dry_run.stages[COLD_EVALUATION]
    items_by_task = {task.name: task.items for task in load.tasks}
    num_items = sum(items_by_task[name] for name in measured.items)
    num_measured = sum(measured.items.values())
    task_share = len(measured.items) / max(len(short.items), 1)  # the open-book evaluation has fewer tasks
    once = min(short.seconds * task_share, measured.seconds)
    # with a GPU, each batch has a process of its own
    is_first_in_process = role == "base" or (role == "pretrained" and bool(usable_devices()))
    imports = max(cold.seconds - short.seconds, 0.0) if is_first_in_process else 0.0
    return imports + once + (measured.seconds - once) * num_items / max(num_measured, 1)
