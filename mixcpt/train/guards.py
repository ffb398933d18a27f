"""Guards of a training: it stops at the first loss or gradient that is not finite, and if its loss diverges."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mixcpt.errors import ModelError, TrainingFailed

PATIENCE_STEPS = 20
"""Optimiser steps for which a loss must be too high before the training counts as diverged; fewer in a short one."""
_MIN_PATIENCE_STEPS = 5
_MIN_RISE = 1.0
"""Rise of the loss over its start, in nats, below which no training counts as diverged."""
_MAX_RATIO = 1.3
_MARGIN = 0.5
"""Rise over `_MAX_RATIO` times the start, or over the cross-entropy of equally likely tokens."""
_HOPELESS_RATIO = 5.0
"""Loss in proportion to its start and to the cross-entropy of equally likely tokens, above which there is no wait."""
_END_RISE = 0.5
"""Rise of the mean loss of the last quarter of a training over the start, in nats, above which it has diverged."""
_END_RATIO = 1.1
_LATE = 0.75
"""Share of the steps before the last quarter."""
_GOOD_RATIO = 1.05
"""Loss of a good checkpoint in proportion to the start, at most."""
_STATE = "divergence.json"
_REMEDY = (
    "lower the learning rate or raise optimizer.warmup_fraction; if it happens again at the same rows, look at "
    "their documents. The last complete checkpoint is kept"
)


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


def require_finite(model: nn.Module) -> None:
    """Raise `ModelError` if a parameter of a finished model is not finite."""
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise ModelError(
            f"{len(bad)} parameters of the trained model are not finite, such as {bad[0]}; it was not published",
            "lower the learning rate",
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A reason why a training cannot go on."""

    reason: str
    """Failed value and its step, without the learning rate and the rows."""
    first_step: int
    """First step of the rows that may be the cause."""
    last_step: int
    is_divergence: bool = False
    """Whether all values are still finite."""

    @classmethod
    def not_finite(cls, name: str, step: int) -> "Failure":
        """Return the failure of a step with a value that is not finite."""
        return cls(reason=f"the {name} is not finite at step {step}", first_step=step, last_step=step)

    def error(self, *, rate: float, rows: str, setting: str) -> TrainingFailed:
        """Return the error about the failure.

        Args:
            rate: Learning rate of the last step; the highest one so far if the training diverged.
            rows: Text about the rows that may be the cause; may be empty.
            setting: Key of the setting that turns the guard against divergence off.
        """
        where = f"; {rows}" if rows else ""
        off = f". {setting}: ignore turns this guard off" if self.is_divergence else ""
        name = "highest learning rate" if self.is_divergence else "learning rate"
        return TrainingFailed(f"{self.reason} ({name} {rate:.3g}{where}); nothing was published", f"{_REMEDY}{off}")


class ReturnToCheckpoint(Exception):
    """Ends a training that failed after a good checkpoint."""

    def __init__(self, failure: Failure, step: int) -> None:
        super().__init__(failure, step)
        self.failure = failure
        self.step = step
        """Step of the good checkpoint."""


@dataclass(kw_only=True)
class _State:
    """Memory of the guard, which is part of every checkpoint."""

    start: dict[str, float] = field(default_factory=dict)
    """Loss of the first step by stream."""
    high_since: dict[str, int] = field(default_factory=dict)
    """Last step before the loss of a stream was too high."""
    late: dict[str, list[float]] = field(default_factory=dict)
    """Sum of the losses of a stream in the last quarter of the training, and their number."""
    last_step: int = 0
    """Last measured step."""
    good_step: int = 0
    """Last step with a checkpoint whose losses were not above their start; 0 if there is none."""


class DivergenceGuard:
    """Compares the loss of every stream with its start.

    A training has diverged if the loss is above its start by more than one nat, and also far above it in proportion or
    above the cross-entropy of equally likely tokens, for `PATIENCE_STEPS` steps, a quarter of a short training, or at
    the end of the training. A loss that is many times as high ends it at once. At the end, it is enough if the mean of
    the last quarter is above the start by half a nat and by a tenth: the model became worse.
    """

    def __init__(self, vocab_size: int) -> None:
        self._uniform = math.log(vocab_size)
        self._state = _State()
        self._is_good = False

    @property
    def good_step(self) -> int:
        """Step of the last good checkpoint; 0 if there is none."""
        return self._state.good_step

    def load(self, checkpoint: Path) -> None:
        """Restore the memory of the guard from a checkpoint, if it has any."""
        if (path := checkpoint / _STATE).is_file():
            self._state = _State(**json.loads(path.read_text()))

    def save(self, checkpoint: Path, step: int, *, writes: bool = True) -> None:
        """Note whether the checkpoint of a step is good, and write the memory of the guard into it."""
        if self._is_good and self._state.last_step == step:
            self._state.good_step = step
        if writes:
            (checkpoint / _STATE).write_text(json.dumps(asdict(self._state)))

    def begin(self, losses: Mapping[str, float]) -> None:
        """Record the loss of streams that have no start yet."""
        self._state.start = {**losses, **self._state.start}

    def check(self, losses: Mapping[str, float], *, step: int, total_steps: int) -> Failure | None:
        """Return the failure of a training that has diverged, or None.

        Args:
            losses: Mean loss by stream since the last call.
            step: Last measured step.
            total_steps: Number of steps of the training.
        """
        self.begin(losses)
        state = self._state
        previous, state.last_step = state.last_step, step
        self._is_good = all(loss <= _GOOD_RATIO * state.start[name] for name, loss in losses.items())
        patience = min(PATIENCE_STEPS, max(_MIN_PATIENCE_STEPS, total_steps // 4))
        needed = min(patience, 2) if step >= total_steps else patience
        for name, loss in losses.items():
            start = state.start[name]
            if loss <= max(start + _MIN_RISE, min(_MAX_RATIO * start, self._uniform) + _MARGIN):
                state.high_since.pop(name, None)
                continue
            since = state.high_since.setdefault(name, previous)
            is_hopeless = loss > _HOPELESS_RATIO * max(start, self._uniform)
            if step - since >= needed or is_hopeless:
                return self._failure(name, loss, since, step=step, window=step - previous)
        if step > max(previous, _LATE * total_steps):
            self._add_late(losses, step - previous)
        return self._rise_at_end(step) if step >= total_steps else None

    def _add_late(self, losses: Mapping[str, float], num_steps: int) -> None:
        for name, loss in losses.items():
            total, count = self._state.late.get(name, (0.0, 0.0))
            self._state.late[name] = [total + num_steps * loss, count + num_steps]

    def _rise_at_end(self, step: int) -> Failure | None:
        for name, (total, count) in self._state.late.items():
            loss, start = total / count, self._state.start[name]
            if loss > max(start + _END_RISE, _END_RATIO * start):
                reason = (
                    f"the training diverged: {_subject(name)} is {loss:.3g} nats in the last {count:.0f} steps, was "
                    f"{start:.3g} at its start"
                )
                # the cause is not in these rows, so none are named
                return Failure(reason=reason, first_step=step + 1, last_step=step, is_divergence=True)
        return None

    def _failure(self, name: str, loss: float, since: int, *, step: int, window: int) -> Failure:
        start = self._state.start[name]
        reason = (
            f"the training diverged at step {step}: {_subject(name)} is {loss:.3g} nats, was {start:.3g} at "
            f"its start, and has been too high since step {since + 1}"
        )
        return Failure(reason=reason, first_step=since + 1, last_step=min(since + window, step), is_divergence=True)


def _subject(name: str) -> str:
    return f"the cross-entropy of stream {name}" if name else "the loss"
