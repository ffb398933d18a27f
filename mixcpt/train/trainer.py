"""Trainer with the fused loss: student and frozen teacher run to their hidden states, the heads inside the loss."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mixcpt.distill.body import hidden_states
from mixcpt.distill.head import head_of
from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.objective import Objective
from mixcpt.mixture.rows import IGNORE_INDEX
from mixcpt.train.data import PackedRows, collate
from mixcpt.train.diagnostics import Diagnostics

Batch = dict[str, Tensor]


class DistillationTrainer(Trainer):
    """Trains a causal language model on packed rows towards an objective.

    The loss of a micro-batch is divided by the scored tokens of the whole optimiser step, so that accumulation and
    several processes give the same gradient as one large batch.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: PackedRows,
        *,
        objective: Objective,
        source_names: Sequence[str],
        teacher: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=collate)
        self.rows = rows
        self.objective: Objective = objective
        self.num_sources = len(source_names)
        self.diagnostics = Diagnostics(source_names, objective, args.device)
        self.teacher = teacher
        if teacher is not None:
            teacher.eval().requires_grad_(False)
            self._move_model_to_device(teacher, args.device)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """Returns the micro-batches of one optimiser step, and the number of tokens scored in it on all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        self.diagnostics.begin()
        num_scored = sum((_targets(batch["labels"]) != IGNORE_INDEX).sum() for batch in batches)
        return batches, self.accelerator.reduce(torch.as_tensor(num_scored, device=device), "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        """Returns the loss of a micro-batch; `num_items_in_batch` is the number of scored tokens of the whole step."""
        if num_items_in_batch is None or return_outputs:
            raise NotImplementedError("this trainer only trains: it has no logits to return")
        # the wrapper of several processes averages their gradients, where a sum is wanted
        normaliser = float(num_items_in_batch) / self.accelerator.num_processes
        student = self.accelerator.unwrap_model(model)
        loss: Tensor = _through(model, student, lambda: self._loss(student, inputs, normaliser))
        return loss

    def _loss(self, student: PreTrainedModel, batch: Batch, normaliser: float) -> Float[Tensor, ""]:
        with self.accelerator.autocast():
            hidden = hidden_states(student, batch["input_ids"], batch["position_ids"])
        if self.args.bf16:
            hidden = hidden.to(torch.bfloat16)
        output = distillation_loss(
            hidden.flatten(0, 1),
            head_of(student),
            _targets(batch["labels"]).flatten(),
            self.objective,
            normaliser=normaliser,
            teacher=self._teach(batch),
            source_ids=_shifted(batch["source_ids"], fill=0).flatten(),
            num_sources=self.num_sources,
        )
        self.diagnostics.add(output.sums, batch["input_ids"].numel())
        return output.loss

    def _teach(self, batch: Batch) -> Teacher | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            hidden = hidden_states(self.teacher, batch["input_ids"], batch["position_ids"])
            return Teacher(hidden.flatten(0, 1), head_of(self.teacher))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Puts our measurements in place of Trainer's loss, which weighs every step alike instead of every token."""
        if "loss" in logs:
            logs = {**logs, **self.diagnostics.drain(lambda sums: self.accelerator.reduce(sums, "sum"))}
        super().log(logs, start_time)


def _targets(labels: Tensor) -> Tensor:
    """Returns the token that each position has to predict: the next one, none at the row's end."""
    return _shifted(labels, fill=IGNORE_INDEX)


def _shifted(values: Tensor, fill: int) -> Tensor:
    return functional.pad(values[:, 1:], (0, 1), value=fill)


def _through(wrapper: nn.Module, module: nn.Module, function: Callable[[], Any]) -> Any:
    """Returns `function()`, called through the forward of `wrapper` where that is more than `module` itself.

    DDP gathers gradients only for what happens inside its own forward.
    """
    if wrapper is module:
        return function()
    forward = module.forward

    def redirected() -> Any:
        module.forward = forward
        return function()

    module.forward = redirected
    return wrapper()
