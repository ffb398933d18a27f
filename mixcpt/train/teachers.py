"""Sources of the teacher's predictions: a frozen copy, the student without its adapters, or a cache."""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.loss import Teacher
from mixcpt.distill.model import CausalModel, Head, head_of, hidden_states
from mixcpt.distill.teacher_cache import TeacherCache
from mixcpt.train.data import Batch
from mixcpt.train.scope import adapter_off
from mixcpt.train.sharding import through


@runtime_checkable
class Predictions(Protocol):
    """A teacher's predictions for a batch."""

    def select(self, rows: Bool[Tensor, " rows"] | None) -> Teacher | CachedTargets:
        """Return the predictions for the hidden states of some rows of the student; None selects all rows."""
        ...


@runtime_checkable
class TeacherSource(Protocol):
    """A source of predictions."""

    @property
    def model(self) -> PreTrainedModel | None:
        """The teacher's own model; None if it needs no second model."""
        ...

    @property
    def runs(self) -> bool:
        """Whether a model computes the predictions during training."""
        ...

    def predict(self, batch: Batch) -> Predictions: ...


@dataclass(frozen=True)
class _HiddenStates:
    """Predictions as hidden states; the fused loss computes their logits chunk by chunk."""

    hidden: Float[Tensor, "teacher_rows seq hidden"]
    head: Head
    index: Int[Tensor, "rows seq"] | None
    """Index of the student's token among all tokens of the teacher; None if both read the same rows."""

    def select(self, rows: Bool[Tensor, " rows"] | None) -> Teacher:
        if self.index is None:
            hidden = self.hidden if rows is None else self.hidden[rows]
            return Teacher(hidden.flatten(0, 1), self.head)
        index = self.index if rows is None else self.index[rows]
        # The student's state at t - 1 predicts its token at t; so does the teacher's state before the same token.
        predictors = functional.pad(index[:, 1:], (0, 1), value=0).sub(1).clamp_min(0)
        return Teacher(self.hidden.flatten(0, 1).index_select(0, predictors.flatten()), self.head)


class FrozenTeacher:
    """A copy of the base model that runs during training."""

    runs = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    def predict(self, batch: Batch) -> Predictions:
        return _forward(self.model, batch)


@dataclass(frozen=True)
class AdapterOffTeacher:
    """The student itself with its adapters disabled: exactly the base model, without a second copy."""

    student: CausalModel
    bf16: bool
    model = None
    runs = True

    def predict(self, batch: Batch) -> Predictions:
        device = batch["input_ids"].device.type
        with adapter_off(self.student), torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            return _forward(self.student, batch)


@dataclass(frozen=True)
class CachedTeacher:
    """The base model's stored predictions of every token of the corpus."""

    cache: TeacherCache
    model = None
    runs = False

    def predict(self, batch: Batch) -> Predictions:
        return _CachedPredictions(self.cache, batch["token_index"])


@dataclass(frozen=True)
class _CachedPredictions:
    cache: TeacherCache
    token_index: Int[Tensor, "rows seq"]

    def select(self, rows: Bool[Tensor, " rows"] | None) -> CachedTargets:
        index = self.token_index if rows is None else self.token_index[rows]
        return self.cache.targets(functional.pad(index[:, 1:], (0, 1), value=-1).flatten(), index.device)


def _forward(model: CausalModel, batch: Batch) -> _HiddenStates:
    """Run the teacher on its rows of the batch."""
    prefix = "teacher_" if "teacher_input_ids" in batch else ""

    def compute() -> _HiddenStates:
        hidden = hidden_states(model, batch[f"{prefix}input_ids"], batch[f"{prefix}position_ids"])
        return _HiddenStates(hidden, head_of(model), batch.get("teacher_index"))

    with torch.no_grad():
        return cast(_HiddenStates, through(model, model, compute))
