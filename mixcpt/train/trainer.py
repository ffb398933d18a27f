"""Trainer with the fused loss: student and teacher run to their hidden states, the heads inside the loss."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import TrainingArguments

from mixcpt.config import OptimizerConfig
from mixcpt.distill.body import hidden_states
from mixcpt.distill.head import CausalModel, Head, head_of
from mixcpt.distill.loss import distillation_loss, token_cross_entropy
from mixcpt.distill.token_weights import talr_weights
from mixcpt.mixture.rows import IGNORE_INDEX
from mixcpt.train.collate import Batch, Collator
from mixcpt.train.data import MixtureRows
from mixcpt.train.diagnostics import Diagnostics
from mixcpt.train.retention import RetentionController
from mixcpt.train.schedule import ScheduledTrainer
from mixcpt.train.scope import check_gradients
from mixcpt.train.sharding import through
from mixcpt.train.streams import Stream
from mixcpt.train.teachers import Predictions, TeacherSource


class DistillationTrainer(ScheduledTrainer):
    """Trains a causal language model on the rows of a mixture, each stream towards its own objective.

    The loss of an optimiser step is the weighted sum of the streams' means over their scored tokens. What a micro-batch
    adds to it is divided by the tokens of the whole step, so that accumulation and several processes give the same
    gradient as one large batch.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: CausalModel,
        args: TrainingArguments,
        rows: MixtureRows,
        *,
        streams: Sequence[Stream],
        schedule: OptimizerConfig,
        teacher: TeacherSource | None = None,
        keeper: RetentionController | None = None,
    ) -> None:
        needs_teacher = tuple(stream.objective.needs_teacher for stream in streams)
        if any(needs_teacher) and teacher is None:
            raise ValueError("a stream with a KL term needs a teacher")
        apart = any(stream.is_pair for stream in rows.streams) or (any(needs_teacher) and not all(needs_teacher))
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=Collator(rows.row_tokens, needs_teacher, apart),
            schedule=schedule,
        )
        self.rows = rows
        self.streams = tuple(streams)
        self.teacher = teacher
        self.keeper = keeper
        self._is_checked = False
        self.diagnostics = Diagnostics(rows.source_names, streams, args.device)
        if teacher is not None and teacher.model is not None and not isinstance(teacher.model, FSDPModule):
            self._move_model_to_device(teacher.model, args.device)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Int[Tensor, " streams"]]:
        """Returns the micro-batches of one optimiser step, and how many tokens each stream scores in all of it."""
        batches = list(islice(epoch_iterator, num_batches))
        self.diagnostics.begin()
        num_scored = torch.zeros(len(self.streams), dtype=torch.long)
        for batch in batches:
            num_scored.index_add_(0, batch["stream_ids"].cpu(), _is_scored(batch).sum(dim=1).cpu())
        return batches, self.accelerator.reduce(num_scored.to(device), "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        """Returns the loss of a micro-batch; `num_items_in_batch` are the scored tokens of each stream in the step."""
        if not isinstance(num_items_in_batch, Tensor) or return_outputs:
            raise NotImplementedError("this trainer only trains: it has no logits to return")
        # the wrapper of several processes averages their gradients, where a sum is wanted
        normalisers = (num_items_in_batch / self.accelerator.num_processes).tolist()
        student = self.accelerator.unwrap_model(model)
        loss: Tensor = through(model, student, lambda: self._loss(student, inputs, normalisers))
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of a micro-batch, its gradients added; the first one proves that all parameters have one."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if not self._is_checked:
            check_gradients(cast(nn.Module, self.model))
            self._is_checked = True
        return loss

    def _loss(self, student: CausalModel, batch: Batch, normalisers: list[float]) -> Float[Tensor, ""]:
        with self.accelerator.autocast():
            hidden = hidden_states(student, batch["input_ids"], batch["position_ids"])
        if self.args.bf16:
            hidden = hidden.to(torch.bfloat16)
        predictions = self.teacher.predict(batch) if self.teacher else None
        head = head_of(student)
        parts = [
            self._stream_loss(number, rows, hidden, head, batch, predictions, normalisers[number])
            for number, rows in self._by_stream(batch)
        ]
        self.diagnostics.end_batch(self.args.per_device_train_batch_size * self.rows.row_tokens)
        return torch.stack(parts).sum()

    def _stream_loss(
        self,
        number: int,
        rows: Bool[Tensor, " rows"] | None,
        hidden: Float[Tensor, "rows seq hidden"],
        head: Head,
        batch: Batch,
        predictions: Predictions | None,
        normaliser: float,
    ) -> Float[Tensor, ""]:
        """Returns the part of one stream, whose `rows` of the batch are given; None stands for all."""
        stream = self.streams[number]
        own = batch if rows is None else {name: batch[name][rows] for name in ("labels", "source_ids", "position_ids")}
        states = (hidden if rows is None else hidden[rows]).flatten(0, 1)
        labels = _targets(own["labels"]).flatten()
        source_ids = _shifted(own["source_ids"], fill=0).flatten()
        objective = self.keeper.objective(stream.objective) if self.keeper else stream.objective
        weights = self.keeper.token_weights(source_ids) if self.keeper else None
        if stream.talr_floor:
            losses = token_cross_entropy(states.detach(), head, labels)
            talr = talr_weights(losses, labels, _segments(own["position_ids"]), stream.talr_floor)
            weights = talr if weights is None else talr * weights
        output = distillation_loss(
            states,
            head,
            labels,
            objective,
            normaliser=normaliser,
            teacher=predictions.of(rows) if predictions and objective.needs_teacher else None,
            token_weights=weights,
            source_ids=source_ids,
            num_sources=len(self.rows.source_names),
        )
        self.diagnostics.add(number, output.sums)
        return stream.weight * output.loss

    def _by_stream(self, batch: Batch) -> Iterator[tuple[int, Bool[Tensor, " rows"] | None]]:
        """Yields each stream of the batch and which rows are its own."""
        if len(self.streams) == 1:
            yield 0, None
            return
        for number in batch["stream_ids"].unique().tolist():
            yield number, batch["stream_ids"] == number

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Puts our measurements in place of Trainer's loss, which weighs every step alike instead of every token."""
        if "loss" in logs:
            logs = {**logs, **self.diagnostics.drain(lambda sums: self.accelerator.reduce(sums, "sum"))}
            logs |= self.keeper.measures if self.keeper else {}
        super().log(logs, start_time)


def _is_scored(batch: Batch) -> Bool[Tensor, "rows seq"]:
    return _targets(batch["labels"]) != IGNORE_INDEX


def _targets(labels: Tensor) -> Tensor:
    """Returns the token that each position has to predict: the next one, none at the row's end."""
    return _shifted(labels, fill=IGNORE_INDEX)


def _shifted(values: Tensor, fill: int) -> Tensor:
    return functional.pad(values[:, 1:], (0, 1), value=fill)


def _segments(position_ids: Int[Tensor, "rows seq"]) -> Int[Tensor, " tokens"]:
    """Returns the number of the packed document that each token belongs to; positions restart where one begins."""
    return (position_ids.flatten() == 0).cumsum(dim=0) - 1
