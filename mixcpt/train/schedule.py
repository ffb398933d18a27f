"""Learning-rate schedules of all trainers: constant, linear, cosine with re-warming, warm-up-stable-decay."""

import math
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from mixcpt.config import OptimizerConfig


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


class ScheduledTrainer(Trainer):
    """A `Trainer` whose rate follows `rate_factor`, because Trainer's own schedules take the first step at rate 0."""

    def __init__(self, *args: Any, schedule: OptimizerConfig, **kwargs: Any) -> None:
        self.schedule = schedule
        super().__init__(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Create the schedule, whose state is part of the checkpoints, and return it."""
        if self.lr_scheduler is None:
            factor = partial(rate_factor, total_steps=num_training_steps, optimizer=self.schedule)
            scheduled: Any = optimizer or self.optimizer
            self.lr_scheduler = LambdaLR(scheduled, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler
