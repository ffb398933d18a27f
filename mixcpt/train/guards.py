"""Guards of a training: it stops at the first loss or gradient that is not finite, and if its loss diverges."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mixcpt.errors import MixcptError, ModelError, TrainingFailed

PATIENCE_STEPS = 20
"""Optimiser steps for which a loss must be too high before the training counts as diverged."""
_MIN_RISE = 1.0
"""Rise of the cross-entropy over its start, in nats, below which no training counts as diverged."""
_MAX_RATIO = 1.3
_MARGIN = 0.5
"""Rise over `_MAX_RATIO` times the start, or over the cross-entropy of equally likely tokens."""
_START = "first-losses.json"


class FiniteGuard:
    """Looks for values that are not finite; on a GPU only when asked, so that no step waits for it."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}
        """Number of the first step with such a value, by the name of the value; -1 if there is none."""

    def see(self, name: str, value: Tensor | float, step: int) -> tuple[str, int] | None:
        """Record a value of a step; on a CPU, return its name and step if it is not finite."""
        if not isinstance(value, Tensor) or value.device.type == "cpu":
            return None if math.isfinite(float(value)) else (name, step)
        value = value.detach()
        known = self._first.get(name, torch.full((), -1, device=value.device))
        is_first = ~torch.isfinite(value).all() & (known < 0)
        self._first[name] = torch.where(is_first, step, known)
        return None

    def first(self) -> tuple[str, int] | None:
        """Return name and step of the first recorded value that is not finite; waits for the GPU."""
        steps = [(int(step), name) for name, step in self._first.items()]
        failed = sorted((step, name) for step, name in steps if step >= 0)
        return (failed[0][1], failed[0][0]) if failed else None


def not_finite(name: str, step: int, *, rate: float, rows: str) -> TrainingFailed:
    """Return the error about a value that is not finite; `rows` describes the rows of the step, or is empty."""
    where = f", {rows}" if rows else ""
    return TrainingFailed(
        f"the {name} is not finite at step {step} (learning rate {rate:.3g}{where}); nothing was published",
        "lower the learning rate or raise optimizer.warmup_fraction; if it happens again at the same rows, look at "
        "their documents. The last complete checkpoint is kept",
    )


def require_finite(model: nn.Module) -> None:
    """Raise `ModelError` if a parameter of a finished model is not finite."""
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise ModelError(
            f"{len(bad)} parameters of the trained model are not finite, such as {bad[0]}; it was not published",
            "lower the learning rate",
        )


class DivergenceGuard:
    """Compares the cross-entropy of every stream with its start.

    A training has diverged if the cross-entropy is above its start by more than one nat, and also far above it in
    proportion or above the one of equally likely tokens, for `PATIENCE_STEPS` steps or at the end of the training.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._path = folder / _START
        self._uniform = math.log(vocab_size)
        self._high_since: dict[str, int] = {}
        self._start: dict[str, float] = {}

    def resume(self) -> None:
        """Restore the losses of the first steps of an interrupted training."""
        try:
            self._start = json.loads(self._path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            self._start = {}

    def begin(self, losses: Mapping[str, float]) -> None:
        """Record the cross-entropy of streams that have no start yet."""
        if new := {name: loss for name, loss in losses.items() if name not in self._start}:
            self._start |= new
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._start))

    def check(self, losses: Mapping[str, float], *, previous_step: int, step: int, is_last: bool) -> str:
        """Return the reason why the training has diverged, or an empty text.

        Args:
            losses: Mean cross-entropy by stream over the steps after `previous_step`.
            previous_step: Last step before the measured ones.
            step: Last measured step.
            is_last: Whether the training ends with this step.
        """
        self.begin(losses)
        for name, loss in losses.items():
            start = self._start[name]
            limit = max(start + _MIN_RISE, min(_MAX_RATIO * start, self._uniform) + _MARGIN)
            if loss <= limit:
                self._high_since.pop(name, None)
                continue
            since = self._high_since.setdefault(name, previous_step)
            if step - since >= PATIENCE_STEPS or is_last:
                return (
                    f"the cross-entropy of stream {name} is {loss:.3g} nats in steps {since + 1} to {step}, "
                    f"and was {start:.3g} at its start"
                )
        return ""


def diverged(reason: str, *, rate: float) -> MixcptError:
    """Return the error about a training whose loss diverged."""
    return TrainingFailed(
        f"the training diverged: {reason} (learning rate {rate:.3g}); nothing was published",
        "lower pretrain.optimizer.learning_rate or raise pretrain.optimizer.warmup_fraction; "
        "pretrain.divergence=ignore turns the guard off. The last complete checkpoint is kept",
    )
