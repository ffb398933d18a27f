"""Optimiser settings of all trainings: arguments of a `transformers.Trainer`, and learning-rate schedules."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from mixcpt.config import OptimizerConfig, require_optimizer
from mixcpt.train.guarded import GuardedTrainer

_OPTIMIZERS = {"fp32": "adamw_torch_fused", "int8": "adamw_8bit"}


def training_arguments(
    optimizer: OptimizerConfig,
    *,
    folder: Path,
    seed: int,
    micro_batch_size: int,
    accumulation_steps: int = 1,
    epochs: int = 1,
    log_steps: int = 10,
    checkpoint_steps: int = 100,
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
    num_checkpoints: int = 2,
) -> dict[str, Any]:
    """Return keyword arguments for `TrainingArguments` and its subclasses in TRL.

    They contain no schedule, because `ScheduledTrainer` has its own. At least the newest two checkpoints are kept in
    `folder`, because a crash may leave one of them incomplete.

    Raises:
        ConfigError: If the library of the optimiser is missing.
    """
    require_optimizer(optimizer)
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "seed": seed,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "num_train_epochs": epochs,
        "learning_rate": optimizer.learning_rate,
        "optim": _OPTIMIZERS[optimizer.state],
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "max_grad_norm": optimizer.max_grad_norm,
        "bf16": precision == "bf16",
        "activation_checkpointing": gradient_checkpointing,
        "logging_strategy": "steps",
        "logging_steps": log_steps,
        "save_strategy": "steps",
        "save_steps": checkpoint_steps,
        "save_total_limit": num_checkpoints,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "ddp_find_unused_parameters": False,
        "disable_tqdm": True,
        "report_to": "none",
        "push_to_hub": False,
    }


def rate_factor(step: int, total_steps: int, optimizer: OptimizerConfig) -> float:
    """Return the learning rate of a step as a fraction of the peak rate; steps count from 0, and no rate is 0.

    The warm-up rises to 1 at its last step. `linear` and `cosine` then fall towards `final_fraction`, which they would
    reach one step after the last; `wsd` falls in the last steps only (MiniCPM, arXiv 2404.06395).
    """
    warmup = _num_steps(optimizer.warmup_fraction, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    decay = total_steps - warmup
    if optimizer.schedule == "wsd":
        decay = min(decay, _num_steps(optimizer.decay_fraction, total_steps))
    if optimizer.schedule == "constant" or decay == 0:
        return 1.0
    progress = min(max(step - (total_steps - decay), 0) / decay, 1.0)
    left = (1 + math.cos(math.pi * progress)) / 2 if optimizer.schedule == "cosine" else 1 - progress
    return optimizer.final_fraction + (1 - optimizer.final_fraction) * left


def _num_steps(fraction: float, total_steps: int) -> int:
    """Return a fraction of the steps, rounded up; 0.07 * 100 gives 7 steps, although its float is 7.000000000000001."""
    return math.ceil(round(fraction * total_steps, 9))


class ScheduledTrainer(GuardedTrainer):
    """A `Trainer` whose rate follows `rate_factor`, because Trainer's own schedules take the first step at rate 0."""

    def __init__(self, *args: Any, schedule: OptimizerConfig, **kwargs: Any) -> None:
        self.schedule = schedule
        super().__init__(*args, **kwargs)

    def rate_of_step(self, step: int) -> float:
        return self.schedule.learning_rate * rate_factor(step - 1, self.state.max_steps, self.schedule)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Create the schedule, whose state is part of the checkpoints, and return it."""
        if self.lr_scheduler is None:
            factor = partial(rate_factor, total_steps=num_training_steps, optimizer=self.schedule)
            scheduled: Any = optimizer or self.optimizer
            self.lr_scheduler = LambdaLR(scheduled, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler
