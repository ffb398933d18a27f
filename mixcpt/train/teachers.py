"""Where the teacher's predictions come from: a frozen copy, the student without its adapters, or a cache."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from mixcpt.distill.body import hidden_states
from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.head import CausalModel, Head, head_of
from mixcpt.distill.loss import Teacher
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.train.collate import Batch
from mixcpt.train.scope import adapter_off
from mixcpt.train.sharding import through


@runtime_checkable
class Predictions(Protocol):
    """What a teacher says of a batch."""

    def of(self, rows: Bool[Tensor, " rows"] | None) -> Teacher | CachedTargets:
        """Returns its predictions, aligned with the hidden states of these rows of the student; None takes all."""
        ...


@runtime_checkable
class TeacherSource(Protocol):
    """A teacher."""

    @property
    def model(self) -> PreTrainedModel | None:
        """The second model that it holds, where it does."""
        ...

    @property
    def runs(self) -> bool:
        """Whether a model computes its predictions beside the student."""
        ...

    def predict(self, batch: Batch) -> Predictions: ...


@dataclass(frozen=True)
class _HiddenStates:
    """Predictions as hidden states, which the fused loss turns into logits chunk by chunk."""

    hidden: Float[Tensor, "teacher_rows seq hidden"]
    head: Head
    index: Int[Tensor, "rows seq"] | None
    """For each token of the student, which of the teacher's it is; None where both read the same."""

    def of(self, rows: Bool[Tensor, " rows"] | None) -> Teacher:
        if self.index is None:
            hidden = self.hidden if rows is None else self.hidden[rows]
            return Teacher(hidden.flatten(0, 1), self.head)
        index = self.index if rows is None else self.index[rows]
        # the student's state at t - 1 and the teacher's before its own token both predict the student's token at t
        predictors = functional.pad(index[:, 1:], (0, 1), value=0).sub(1).clamp_min(0)
        return Teacher(self.hidden.flatten(0, 1).index_select(0, predictors.flatten()), self.head)


class FrozenTeacher:
    """A copy of the base model that runs beside the student."""

    runs = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    def predict(self, batch: Batch) -> Predictions:
        return _read(self.model, batch)


class AdapterOffTeacher:
    """The student itself while its adapters are off: exactly the base model, and no second copy of it."""

    model = None
    runs = True

    def __init__(self, student: CausalModel, *, bf16: bool) -> None:
        self._student = student
        self._bf16 = bf16

    def predict(self, batch: Batch) -> Predictions:
        device = batch["input_ids"].device.type
        with adapter_off(self._student), torch.autocast(device, torch.bfloat16, enabled=self._bf16):
            return _read(self._student, batch)


class CachedTeacher:
    """What the base model said of every token of the corpus, read from disk."""

    model = None
    runs = False

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache

    def predict(self, batch: Batch) -> Predictions:
        return _Kept(self._cache, batch["token_index"])


@dataclass(frozen=True)
class _Kept:
    cache: TeacherCache
    token_index: Int[Tensor, "rows seq"]

    def of(self, rows: Bool[Tensor, " rows"] | None) -> CachedTargets:
        index = self.token_index if rows is None else self.token_index[rows]
        return self.cache.targets(functional.pad(index[:, 1:], (0, 1), value=-1).flatten(), index.device)


def _read(model: CausalModel, batch: Batch) -> _HiddenStates:
    prefix = "teacher_" if "teacher_input_ids" in batch else ""

    def read() -> _HiddenStates:
        hidden = hidden_states(model, batch[f"{prefix}input_ids"], batch[f"{prefix}position_ids"])
        return _HiddenStates(hidden, head_of(model), batch.get("teacher_index"))

    with torch.no_grad():
        states: _HiddenStates = through(model, model, read)
        return states
