"""From a trial to the run: what is paid once stays, what is paid by step, sample and question grows with these."""

from dataclasses import replace
from statistics import fmean

from mixcpt.planning.dry_run import COLD, FEW, Measured, Trial
from mixcpt.planning.estimates import data_bytes, device_kind, num_checkpoints, probing_flops
from mixcpt.planning.load import Load
from mixcpt.records.plan import Device, Memory, StagePlan

_JOBS = {"teacher": "cache", "pretrained": "pretrain", "selection": "select", "sft": "sft", "dpo": "dpo"}
"""The job of the trial that shows what a stage takes; the other stages are too short to matter."""
_MIN_ALIGNMENT_CHECKPOINT_STEPS = 10
_NUM_ALIGNMENT_CHECKPOINTS = 10
_FIRST_IN_PROCESS = ("base", "pretrained")
"""The evaluations that start a process."""
_CHECKPOINT_SHARE = 0.75
"""Of what is written after the last step: weights and two means for the checkpoint, weights for the model."""


def extrapolated(planned: tuple[StagePlan, ...], load: Load, trial: Trial) -> tuple[StagePlan, ...]:
    """Returns the stages with the seconds and the peaks that the trial tells of."""
    return tuple(_stage(stage, load, trial) for stage in planned)


def start_seconds(load: Load, trial: Trial) -> float:
    """Returns what starting processes and importing libraries took, as often as the run will do it."""
    starts = {name: measured.start_seconds for name, measured in trial.stages.items() if name not in (COLD, FEW)}
    first_question = trial.stages[COLD].start_seconds
    return sum(starts.values()) + 2 * first_question  # one process asks before the training, another after it


def memory_of_trial(parts: Memory, stage: StagePlan, device: Device) -> Memory:
    """Returns the parts with what the trial measured: what no formula tells apart is the process's, or activations'."""
    unexplained = stage.peak_memory_bytes - (parts.total - parts.process)
    if device_kind(device) == "cpu" and unexplained > 0:
        return replace(parts, process=unexplained)
    return replace(parts, process=0, activations=max(parts.activations + unexplained, 0))


def _stage(stage: StagePlan, load: Load, trial: Trial) -> StagePlan:
    if stage.stage.startswith("evaluation of "):
        return replace(stage, seconds=_asking(stage.stage.removeprefix("evaluation of "), load, trial))
    measured = trial.stages.get(_JOBS.get(stage.stage, ""))
    if measured is None:
        return stage
    if stage.stage == "teacher":
        return replace(stage, seconds=measured.seconds * load.reading.cached_tokens / measured.metrics["tokens"])
    if stage.stage == "selection":
        return replace(stage, seconds=_selecting(load, measured, trial))
    peak = round(measured.metrics["peak_memory_bytes"]) + _more_data(stage, load, trial)
    seconds = _pretraining(stage, load, measured, trial) if stage.stage == "pretrained" else _aligning(stage, measured)
    return replace(stage, seconds=seconds, peak_memory_bytes=peak)


def _more_data(stage: StagePlan, load: Load, trial: Trial) -> int:
    """Returns the bytes of the rows that the run's training holds beyond the trial's, where they share a memory."""
    import torch

    if stage.stage != "pretrained" or torch.cuda.is_available():
        return 0
    return max(0, data_bytes(load, load.reading.tokens) - data_bytes(load, trial.config.mixture.total_tokens))


def _pretraining(stage: StagePlan, load: Load, measured: Measured, trial: Trial) -> float:
    """Returns the seconds of all steps, of the checkpoints, and of what is done once."""
    config = load.config.pretrain
    step = fmean(measured.step_seconds) * config.batch_rows / trial.config.pretrain.batch_rows
    trained = fmean(measured.step_seconds) * measured.metrics["steps"]
    once = max(measured.seconds - trained, 0.0)
    checkpoint = _CHECKPOINT_SHARE * measured.seconds_after_training
    more = num_checkpoints(stage.steps, config.checkpoint_steps) - 1
    probing = probing_flops(load) * trained / max(measured.metrics["flops"], 1.0)
    return once + step * stage.steps + more * checkpoint + probing


def _selecting(load: Load, measured: Measured, trial: Trial) -> float:
    aligned = load.alignment
    drawn = trial.config.align.selection.num_candidates
    pools = {"instructions", "preferences"}
    tried = sum(min(drawn, len(sample.records)) for sample in load.samples if sample.pool in pools)
    return measured.seconds * max(1.0, aligned.num_candidates / max(tried, 1)) if aligned else measured.seconds


def _aligning(stage: StagePlan, measured: Measured) -> float:
    """Returns the seconds of SFT or DPO; what is done once holds the reference's answers, one forward of three."""
    steps = round(measured.metrics["steps"])
    step = fmean(measured.step_seconds) if measured.step_seconds else measured.metrics["train_seconds"] / steps
    once = max(measured.seconds - step * steps, 0.0)
    samples = stage.rows - measured.metrics["num_samples"]
    reference = step * steps / 3 * samples / measured.metrics["num_samples"] if stage.stage == "dpo" else 0.0
    every = max(_MIN_ALIGNMENT_CHECKPOINT_STEPS, -(-stage.steps // _NUM_ALIGNMENT_CHECKPOINTS))
    checkpoint = _CHECKPOINT_SHARE * measured.seconds_after_training
    return once + step * stage.steps + reference + (num_checkpoints(stage.steps, every) - 1) * checkpoint


def _asking(role: str, load: Load, trial: Trial) -> float:
    """Returns the seconds of an evaluation: what it costs to ask next to nothing, and the rest by question.

    The first one of a process imports libraries as well.
    """
    job = {"final": "pretrained"}.get(role, role)
    measured, few = trial.stages[f"evaluate-{job}"], trial.stages[FEW]
    wanted = {task.name: task.items for task in load.tasks}
    asked = sum(measured.items.values())
    more = sum(wanted[name] for name in measured.items)
    share = len(measured.items) / max(len(few.items), 1)  # the documents at hand are for some of the tasks
    once = min(few.seconds * share, measured.seconds)
    cold = max(trial.stages[COLD].seconds - few.seconds, 0.0) if role in _FIRST_IN_PROCESS else 0.0
    return cold + once + (measured.seconds - once) * more / max(asked, 1)
