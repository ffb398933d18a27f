"""Limits the loss of skills during training, measured on probe questions (docs/algorithms.md#retention-control).

During training the measured loss decides: if the questions lost, minus those gained, exceed the promised limit, the
pressure rises; otherwise it slowly falls. At the end the proven loss decides: the weights move back towards the base
until the one-sided bound of Clopper and Pearson on the fraction lost, minus the fraction gained, is within the limit.
The first part of that way costs little of the new knowledge (Wortsman et al., arXiv 2109.01903).
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from mixcpt.config import ObjectiveConfig, RetentionConfig
from mixcpt.train.tally import Tally

PRESSURE_RISE, PRESSURE_FALL = 0.1, 0.05
"""Change of the pressure at a check that exceeds the limit, and at one that does not."""
MAX_PRESSURE = 0.5
"""Maximum pressure; at 1 the training would learn nothing of the domain."""
NUM_BACK_STEPS = 20
"""Number of equal steps in which the weights move back to the base."""
_PRESSURE = "retention/pressure"


@runtime_checkable
class Probe(Protocol):
    """Questions with known answers of the base model."""

    @property
    def digest(self) -> str:
        """Digest of the questions and of the base model's answers."""

    def ask(self, model: nn.Module) -> Mapping[str, Tally]:
        """Return the change of every task's answers since the base model."""


class RetentionController:
    """Keeps the losses of skills within a limit by adjusting the objective according to the probe."""

    def __init__(self, config: RetentionConfig, probe: Probe, domain_sources: Int[Tensor, " domain"]) -> None:
        self.config = config
        self.probe = probe
        self.pressure = 0.0
        self.metrics: dict[str, float] = {_PRESSURE: 0.0}
        """Metrics of the last check."""
        self._domain_sources = domain_sources

    def objective(self, objective: ObjectiveConfig) -> ObjectiveConfig:
        """Return the objective with the fraction `pressure` of the CE weight moved to the teacher."""
        if self.config.action != "alpha" or not objective.needs_teacher:
            return objective
        moved = self.pressure * objective.ce_weight
        weights = {"ce_weight": objective.ce_weight - moved, "kl_weight": objective.kl_weight + moved}
        return objective.model_copy(update=weights)

    def token_weights(self, source_ids: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"] | None:
        """Return the weights 1 - pressure for domain tokens and 1 + pressure for the others; None if all are 1."""
        if self.config.action != "replay" or not self.pressure:
            return None
        is_domain = torch.isin(source_ids, self._domain_sources.to(source_ids.device))
        return torch.where(is_domain, 1 - self.pressure, 1 + self.pressure)

    def check(self, model: nn.Module) -> bool:
        """Measure the losses, adjust the pressure, and return whether all losses are within the limit."""
        is_safe = all(tally.net_loss <= self.config.max_loss for tally in self._measure(model).values())
        if is_safe:
            self.pressure = max(0.0, self.pressure - PRESSURE_FALL)
        else:
            self.pressure = min(MAX_PRESSURE, self.pressure + PRESSURE_RISE)
        self.metrics[_PRESSURE] = self.pressure
        return is_safe

    def holds(self, model: nn.Module) -> bool:
        """Measure the losses, and return whether the bounds on all losses are within the limit."""
        tallies = self._measure(model).values()
        return all(tally.bound(self.config.confidence) <= self.config.max_loss for tally in tallies)

    def resume(self, logs: list[dict[str, Any]]) -> None:
        """Restore metrics and pressure from the log history of an interrupted training."""
        for log in logs:
            self.metrics |= {name: value for name, value in log.items() if name.startswith("retention/")}
        self.pressure = self.metrics[_PRESSURE]

    def _measure(self, model: nn.Module) -> Mapping[str, Tally]:
        was_training = model.training
        model.eval()
        try:
            tallies = self.probe.ask(model)
        finally:
            model.train(was_training)
        for task, tally in tallies.items():
            self.metrics[f"retention/{task}/lost"] = tally.net_loss
            self.metrics[f"retention/{task}/lost_at_most"] = tally.bound(self.config.confidence)
        return tallies


class RetentionCallback(TrainerCallback):
    """Runs the controller's checks between steps."""

    def __init__(self, trainer: Trainer, controller: RetentionController) -> None:
        self._trainer = trainer
        self._controller = controller

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Restore the state of an interrupted training."""
        self._controller.resume(state.log_history)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Check every `check_steps` steps; with the action `stop`, end the training if a loss exceeds the limit."""
        config = self._controller.config
        if state.global_step % config.check_steps == 0:
            is_safe = self._controller.check(self._trainer.accelerator.unwrap_model(self._trainer.model))
            if config.action == "stop" and not is_safe:
                control.should_training_stop = True
        control.should_log = control.should_log or control.should_training_stop
        return control


def draw_back(model: nn.Module, start: Mapping[str, Tensor], controller: RetentionController) -> float:
    """Move the trained weights back towards the base until the limit holds; return the fraction of the change kept.

    `start` contains the trained weights before training, by name. At fraction 0 the limit holds by definition.
    """
    weights = {name: weight for name, weight in model.named_parameters() if name in start}
    trained = {name: weight.detach().clone() for name, weight in weights.items()}
    fraction = 0.0
    for step in range(NUM_BACK_STEPS, -1, -1):
        fraction = step / NUM_BACK_STEPS
        # weight <- start + fraction * (trained - start)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(torch.lerp(start[name].to(weight), trained[name], fraction))
        if step and controller.holds(model):
            break
    return fraction
