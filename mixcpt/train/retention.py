"""Keeps a promise while it trains: looks at probe questions, and gives way before too much of a skill is lost.

While it trains, what is seen decides: where the questions lost, less those gained, are more than promised, the pressure
rises, and it falls again slowly where they are not. In the end what can be shown decides: the weights go back towards
the base until the one-sided bound of Clopper and Pearson on the share that is lost, less what was gained, is within the
promise. The first part of that way costs little of what was learned (Wortsman et al., arXiv 2109.01903).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixcpt.config import RetentionConfig
from mixcpt.distill.objective import Objective
from mixcpt.train.tally import Tally

RISE, FALL, MOST = 0.1, 0.05, 0.5
"""By how much the pressure changes at a look, and how far it rises: at 1 nothing of the domain would be learned."""
STEPS_BACK = 20
"""The way back to the base is gone in steps of one twentieth."""
_PRESSURE = "retention/pressure"


@runtime_checkable
class Probe(Protocol):
    """Questions whose answers by the base are known."""

    @property
    def digest(self) -> str:
        """What the questions and the base's answers are."""

    def ask(self, model: nn.Module) -> Mapping[str, Tally]:
        """Returns how each skill has changed."""


class RetentionController:
    """Watches over a promise: changes the objective by as much pressure as the probe asks for."""

    def __init__(self, promise: RetentionConfig, probe: Probe, domain_sources: Int[Tensor, " domain"]) -> None:
        self.promise = promise
        self.probe = probe
        self.pressure = 0.0
        self.measures: dict[str, float] = {_PRESSURE: 0.0}
        """Of the last look."""
        self._domain_sources = domain_sources

    def objective(self, objective: Objective) -> Objective:
        """Returns the objective under the pressure: so much of the true token's weight is given to the teacher."""
        if self.promise.act != "alpha" or not objective.needs_teacher:
            return objective
        moved = self.pressure * objective.ce_weight
        return replace(objective, ce_weight=objective.ce_weight - moved, kl_weight=objective.kl_weight + moved)

    def token_weights(self, source_ids: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"] | None:
        """Returns the weight of each token under the pressure: less for the domain, more for the rest."""
        if self.promise.act != "replay" or not self.pressure:
            return None
        is_domain = torch.isin(source_ids, self._domain_sources.to(source_ids.device))
        return torch.where(is_domain, 1 - self.pressure, 1 + self.pressure)

    def look(self, model: nn.Module) -> bool:
        """Returns whether no skill is seen to have lost more than promised, after setting the pressure by it."""
        is_safe = all(tally.net_loss <= self.promise.max_loss for tally in self._measured(model).values())
        self.pressure = max(0.0, self.pressure - FALL) if is_safe else min(MOST, self.pressure + RISE)
        self.measures[_PRESSURE] = self.pressure
        return is_safe

    def holds(self, model: nn.Module) -> bool:
        """Returns whether the probe is sure enough that every skill has lost no more than promised."""
        tallies = self._measured(model).values()
        return all(tally.bound(self.promise.sure) <= self.promise.max_loss for tally in tallies)

    def resume(self, logs: list[dict[str, Any]]) -> None:
        """Takes up the measures of an interrupted training; they travel with its log history."""
        for log in logs:
            self.measures |= {name: value for name, value in log.items() if name.startswith("retention/")}
        self.pressure = self.measures[_PRESSURE]

    def _measured(self, model: nn.Module) -> Mapping[str, Tally]:
        was_training = model.training
        model.eval()
        try:
            tallies = self.probe.ask(model)
        finally:
            model.train(was_training)
        for task, tally in tallies.items():
            self.measures |= {
                f"retention/{task}/lost": tally.net_loss,
                f"retention/{task}/lost_at_most": tally.bound(self.promise.sure),
            }
        return tallies


class RetentionCallback(TrainerCallback):
    """Looks at the probe between steps."""

    def __init__(self, trainer: Trainer, keeper: RetentionController) -> None:
        self._trainer = trainer
        self._keeper = keeper

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Goes on where an interrupted training was."""
        self._keeper.resume(state.log_history)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Looks every so many steps; where the promise says so, training ends instead of giving way."""
        if state.global_step % self._keeper.promise.check_steps == 0:
            is_safe = self._keeper.look(self._trainer.accelerator.unwrap_model(self._trainer.model))
            if self._keeper.promise.act == "stop" and not is_safe:
                control.should_training_stop = True
        control.should_log = control.should_log or control.should_training_stop
        return control


def draw_back(model: nn.Module, start: Mapping[str, Tensor], keeper: RetentionController) -> float:
    """Returns the share of the way from the base that the weights are left at: the furthest at which the promise holds.

    Args:
        model: The trained model; its trained weights are changed in place.
        start: What those weights were before training, by name.
        keeper: Knows the promise and asks the probe.
    """
    trained = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in start}
    for step in range(STEPS_BACK, 0, -1):
        share = step / STEPS_BACK
        _place(model, start, trained, share)
        if keeper.holds(model):
            return share
    _place(model, start, trained, 0.0)
    return 0.0


def _place(model: nn.Module, start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in start:
                weight.copy_(torch.lerp(start[name].to(weight), trained[name], share))
