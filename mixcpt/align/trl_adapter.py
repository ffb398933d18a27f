"""SFT and DPO with TRL; only this module imports it and uses the names of its fields and metrics."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from mixcpt.align.chat import Encoded
from mixcpt.config import DpoConfig, SftConfig, Sharding
from mixcpt.distill.model import CausalModel
from mixcpt.errors import ConfigError
from mixcpt.mixture.rows import IGNORE_INDEX
from mixcpt.store.spool import Tracker
from mixcpt.train.callbacks import history, observe
from mixcpt.train.optimizer import ScheduledTrainer, training_arguments
from mixcpt.train.sharding import environment, sharding_arguments

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # the library has already read the environment

_REFERENCE = "ref"
"""Name of the adapter that TRL adds to a model with adapters, as the reference of DPO."""
_NUM_CHECKPOINTS = 10
_MIN_CHECKPOINT_STEPS = 10
_NUM_MEASUREMENTS = 100
_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_log_probability",
    "logps/rejected": "rejected_log_probability",
}
"""Our name, after `sft/` or `dpo/`, of every TRL metric that we keep."""


class StageTracker:
    """Tracker that renames metrics by `_NAMES` and adds the name of their stage."""

    def __init__(self, tracker: Tracker, stage: str) -> None:
        self.tracker = tracker
        self.stage = stage

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        if named := stage_metrics(metrics, self.stage):
            self.tracker.log(step, named, total_steps=total_steps)


def stage_metrics(metrics: Mapping[str, int | float], stage: str) -> dict[str, float]:
    """Return the metrics that we keep, under our names: `train/rewards/margins` becomes `dpo/margin`."""
    short = {name.removeprefix("train/"): value for name, value in metrics.items()}
    return {f"{stage}/{_NAMES[name]}": float(value) for name, value in short.items() if name in _NAMES}


def stage_history(trainer: Trainer) -> list[dict[str, int | float]]:
    """Return the measurements of the whole training, including interrupted processes, each with its `step`."""
    stage, logs = _stage(trainer), history(trainer.state.log_history)
    return [{"step": entry["step"], **stage_metrics(entry, stage)} for entry in logs]


def _stage(trainer: Trainer) -> str:
    return "dpo" if isinstance(trainer, DPOTrainer) else "sft"


class _ScheduledSFTTrainer(ScheduledTrainer, SFTTrainer):  # type: ignore[misc]
    """SFT with our schedule of learning rates."""


class _TokenisedDPOTrainer(ScheduledTrainer, DPOTrainer):  # type: ignore[misc]
    """DPO on tokenised samples, which TRL supports only for SFT."""

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset


def make_trainer(
    config: SftConfig | DpoConfig,
    answers: Sequence[Sequence[Encoded]],
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    folder: Path,
    seed: int,
    tracker: Tracker,
    sharding: Sharding = "none",
) -> Trainer:
    """Return the trainer of SFT or DPO; its checkpoints go to `folder`.

    The loss of SFT is the mean over the answer tokens of a batch. DPO (Rafailov et al., arXiv 2305.18290, eq. 7) has
    the initial `model` as its reference, whose log-probabilities are computed here, so no second model is needed. The
    reference of sharded adapters is computed in every step, with the adapters off.

    Args:
        config: Settings of SFT or DPO.
        answers: Encoded answers of every sample: one for SFT; the chosen and the rejected one for DPO.
        model: Model to train, with its adapters if its scope has any.
        tokenizer: Tokenizer of the model.
        folder: Folder of the checkpoints.
        seed: Seed of the order of the samples.
        tracker: Tracker of the metrics.
        sharding: Distribution of the parameters over devices.

    Raises:
        ConfigError: If the number of processes does not divide the batch size.
    """
    shared = _shared_arguments(config, len(answers), folder, seed=seed, sharding=sharding)
    arguments: SFTConfig | DPOConfig
    if isinstance(config, SftConfig):
        trainer_class: Any = _ScheduledSFTTrainer
        rows = [
            {"input_ids": answer.input_ids, "labels": [IGNORE_INDEX] * len(answer.prompt_ids) + answer.response_ids}
            for (answer,) in answers
        ]
        # The samples are tokenised already, as in the selection.
        arguments = SFTConfig(**shared, packing=False, dataset_kwargs={"skip_prepare_dataset": True})
    else:
        trainer_class = _TokenisedDPOTrainer
        datasets.disable_progress_bars()
        rows = [
            {"prompt_ids": chosen.prompt_ids, "chosen_ids": chosen.response_ids, "rejected_ids": rejected.response_ids}
            for chosen, rejected in answers
        ]
        computes_first = sharding == "none" or config.scope.kind == "full"
        arguments = DPOConfig(
            **shared, beta=config.beta, loss_type=["sigmoid"], precompute_ref_log_probs=computes_first
        )
    dataset = _shared_dataset(datasets.Dataset.from_list(rows), folder, seed=seed)
    stage = "sft" if isinstance(config, SftConfig) else "dpo"
    trainer: Trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        schedule=config.optimizer,
        divergence=config.divergence,
        setting=f"align.{stage}.divergence",
    )
    if isinstance(model, PeftModel) and _REFERENCE in model.peft_config:
        model.delete_adapter(_REFERENCE)  # a copy of the untrained adapters: they are off instead
    observe(trainer, StageTracker(tracker, _stage(trainer)))
    return trainer


def _shared_dataset(dataset: datasets.Dataset, folder: Path, *, seed: int) -> datasets.Dataset:
    """Save the dataset for all processes and return it as loaded: TRL adds columns in a file in the same folder."""
    if environment("WORLD_SIZE", 1) == 1:
        return dataset
    path = folder / f"samples-{seed}"
    state = PartialState()
    if state.is_main_process:
        shutil.rmtree(path, ignore_errors=True)
        dataset.save_to_disk(path)
    state.wait_for_everyone()
    return datasets.load_from_disk(path)


def _shared_arguments(
    config: SftConfig | DpoConfig, num_samples: int, folder: Path, *, seed: int, sharding: Sharding
) -> dict[str, Any]:
    stage, num_processes = "sft" if isinstance(config, SftConfig) else "dpo", environment("WORLD_SIZE", 1)
    per_process, rest = divmod(config.batch_size, num_processes)
    if rest:
        raise ConfigError(
            f"align.{stage}.batch_size is {config.batch_size}, which is not divisible by {num_processes} processes",
            f"set align.{stage}.batch_size to a multiple of {num_processes}",
        )
    if sharding != "none" and config.optimizer.state == "int8":
        raise ConfigError("optimizer.state int8 cannot be sharded", "set runtime.sharding to none, or state to fp32")
    num_steps = -(-num_samples // config.batch_size) * config.epochs
    arguments = training_arguments(
        config.optimizer,
        folder=folder,
        seed=seed,
        micro_batch_size=per_process,
        epochs=config.epochs,
        log_steps=max(1, num_steps // _NUM_MEASUREMENTS),
        checkpoint_steps=max(_MIN_CHECKPOINT_STEPS, -(-num_steps // _NUM_CHECKPOINTS)),
        precision="bf16" if config.precision == "bf16" else "fp32",
        gradient_checkpointing=config.gradient_checkpointing,
    )
    sharded = sharding_arguments(sharding, recompute=config.gradient_checkpointing)
    return arguments | {"max_length": config.max_tokens} | sharded
