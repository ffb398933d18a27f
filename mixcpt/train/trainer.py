"""Trainer with the fused loss: student and teacher compute hidden states, and the loss applies their heads.

`examples/lssd_in_100_lines.py` is the place to read first: the same loss in one plain loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import TrainingArguments

from mixcpt.config import OptimizerConfig, StreamConfig
from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.loss import Teacher, distillation_loss, talr_weights, token_cross_entropy
from mixcpt.distill.model import CausalModel, Head, decoder_of, head_of, states_and_balance
from mixcpt.distill.reading import num_places
from mixcpt.mixture.origins import Origins
from mixcpt.mixture.rows import IGNORE_INDEX, NO_SOURCE
from mixcpt.train.data import Batch, Collator, MixtureRows
from mixcpt.train.diagnostics import Diagnostics
from mixcpt.train.guarded import Divergence
from mixcpt.train.optimizer import ScheduledTrainer
from mixcpt.train.retention import RetentionController
from mixcpt.train.scope import check_gradients
from mixcpt.train.sharding import through
from mixcpt.train.suspects import Suspect
from mixcpt.train.teachers import TeacherSource

_LOSS_COLUMNS = ("labels", "source_ids", "position_ids")


class DistillationTrainer(ScheduledTrainer):
    """Trains a causal language model on the rows of a mixture, each stream with its own objective.

    The loss of an optimiser step is the weighted sum of the streams' mean losses over their scored tokens. The loss of
    a micro-batch is divided by the scored tokens of the whole step, so that accumulation and several processes give the
    same gradient as one large batch.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: CausalModel,
        args: TrainingArguments,
        rows: MixtureRows,
        *,
        streams: Sequence[StreamConfig],
        schedule: OptimizerConfig,
        teacher: TeacherSource | None = None,
        retention: RetentionController | None = None,
        divergence: Divergence = "stop",
        origins: Origins | None = None,
    ) -> None:
        needs_teacher = tuple(stream.needs_teacher for stream in streams)
        if any(needs_teacher) and teacher is None:
            raise ValueError("a stream with a KL term needs a teacher")
        is_partly_taught = any(needs_teacher) and not all(needs_teacher)
        has_teacher_rows = is_partly_taught or any(stream.is_pair for stream in rows.streams)
        collator = Collator(rows.row_tokens, needs_teacher, has_teacher_rows)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=collator,
            schedule=schedule,
            divergence=divergence,
        )
        self.rows = rows
        self.streams = tuple(streams)
        self.teacher = teacher
        self.retention = retention
        self._has_checked_gradients = False
        self._origins = origins
        self.diagnostics = Diagnostics(rows.source_names, streams, args.device)
        if teacher is not None and teacher.model is not None and not isinstance(teacher.model, FSDPModule):
            self._move_model_to_device(teacher.model, args.device)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Int[Tensor, " streams"]]:
        """Draw the micro-batches of one optimiser step; return them and the step's scored tokens of every stream."""
        batches = list(islice(epoch_iterator, num_batches))
        self.diagnostics.begin()
        num_scored = torch.zeros(len(self.streams), dtype=torch.long)
        for batch in batches:
            is_scored = _targets(batch["labels"]) != IGNORE_INDEX
            num_scored.index_add_(0, batch["stream_ids"].cpu(), is_scored.sum(dim=1).cpu())
        return batches, self.accelerator.reduce(num_scored.to(device), "sum")

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Float[Tensor, ""]:
        """Return the loss of a micro-batch; `num_items_in_batch` holds the step's scored tokens of every stream."""
        if not isinstance(num_items_in_batch, Tensor) or return_outputs:
            raise NotImplementedError("this trainer only trains and returns no logits")
        # DDP and FSDP average the gradients of all processes, but the step needs their sum
        normalisers = (num_items_in_batch / self.accelerator.num_processes).tolist()
        student = self.accelerator.unwrap_model(model)
        loss: Tensor = through(model, student, lambda: self._loss(student, inputs, normalisers))
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Add the gradients of a micro-batch and return its loss; check the gradients after the first one."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if not self._has_checked_gradients:
            check_gradients(cast(nn.Module, self.model))
            self._has_checked_gradients = True
        return loss

    def _loss(self, student: CausalModel, batch: Batch, normalisers: list[float]) -> Float[Tensor, ""]:
        with self.accelerator.autocast():
            is_text = batch["source_ids"] != NO_SOURCE
            hidden, balance = states_and_balance(student, batch["input_ids"], batch["position_ids"], is_text)
        self.diagnostics.add_read(is_text.sum(), num_places(decoder_of(student), batch["position_ids"]))
        if self.args.bf16:
            hidden = hidden.to(torch.bfloat16)
        predictions = self.teacher.predict(batch) if self.teacher else None
        head = head_of(student)
        losses = []
        for number, rows in self._by_stream(batch):
            states = (hidden if rows is None else hidden[rows]).flatten(0, 1)
            part = batch if rows is None else {name: batch[name][rows] for name in _LOSS_COLUMNS}
            teacher = predictions.select(rows) if predictions and self.streams[number].needs_teacher else None
            normaliser = normalisers[number]
            losses.append(self._stream_loss(number, states, head, batch=part, teacher=teacher, normaliser=normaliser))
        self.diagnostics.end_batch(self.args.per_device_train_batch_size * self.rows.row_tokens)
        if balance is not None:
            # every micro-batch counts by its share of the scored tokens of the step
            share = (_targets(batch["labels"]) != IGNORE_INDEX).sum() / max(sum(normalisers), 1.0)
            losses.append(share * balance)
            self.diagnostics.add_balance(share * balance.detach())
        return torch.stack(losses).sum()

    def _stream_loss(
        self,
        number: int,
        hidden: Float[Tensor, "tokens hidden"],
        head: Head,
        *,
        batch: Batch,
        teacher: Teacher | CachedTargets | None,
        normaliser: float,
    ) -> Float[Tensor, ""]:
        """Return the loss of one stream, and add its measures to the diagnostics; `batch` holds its rows only."""
        stream = self.streams[number]
        labels = _targets(batch["labels"]).flatten()
        source_ids = _shifted(batch["source_ids"], fill=0).flatten()
        objective = self.retention.objective(stream) if self.retention else stream
        weights = self.retention.token_weights(source_ids) if self.retention else None
        if stream.talr_floor:
            losses = token_cross_entropy(hidden.detach(), head, labels)
            talr = talr_weights(losses, labels, _segments(batch["position_ids"]), floor=stream.talr_floor)
            weights = talr if weights is None else talr * weights
        output = distillation_loss(
            hidden,
            head,
            labels,
            objective,
            normaliser=normaliser,
            teacher=teacher,
            token_weights=weights,
            source_ids=source_ids,
            num_sources=len(self.rows.source_names),
        )
        self.diagnostics.add(number, output.sums)
        return stream.weight * output.loss

    def _by_stream(self, batch: Batch) -> Iterator[tuple[int, Bool[Tensor, " rows"] | None]]:
        """Yield the number of every stream in the batch, and the mask of its rows; None means all rows."""
        if len(self.streams) == 1:
            yield 0, None
        else:
            for number in batch["stream_ids"].unique().tolist():
                yield number, batch["stream_ids"] == number

    def own_metrics(self) -> dict[str, float]:
        """Return our metrics; their loss replaces Trainer's, which weights all steps equally instead of all tokens."""
        metrics = self.diagnostics.drain(lambda sums: self.accelerator.reduce(sums, "sum"))
        return metrics | (self.retention.metrics if self.retention else {})

    def window_losses(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Return the mean cross-entropy of every stream since the last log."""
        return self.diagnostics.cross_entropy(lambda sums: self.accelerator.reduce(sums, "sum"))

    def first_losses(self) -> dict[str, float]:
        return self.window_losses({})

    def remember(self, step: int, inputs: Mapping[str, Any]) -> None:
        """Keep nothing: the rows of every step are known."""

    def suspects(self, first_step: int, last_step: int) -> list[Suspect]:
        """Return the documents that some steps read."""
        size = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        size *= self.accelerator.num_processes
        found: list[Suspect] = []
        for index in range((first_step - 1) * size, min(last_step * size, len(self.rows))):
            row = self.rows[index]
            if row.is_blank:
                continue
            stream, record = self.rows.place(index)
            known = {"step": index // size + 1, "row": record, "stream": self.streams[stream].name}
            parts = self._origins.parts(row.columns) if self._origins else []
            found += [Suspect(**known, **asdict(part)) for part in parts] or [Suspect(**known, text="")]
        return found


def _targets(labels: Tensor) -> Tensor:
    """Return the token that each position has to predict: the next one, or none at the end of a row."""
    return _shifted(labels, fill=IGNORE_INDEX)


def _shifted(values: Tensor, fill: int) -> Tensor:
    return functional.pad(values[:, 1:], (0, 1), value=fill)


def _segments(position_ids: Int[Tensor, "rows seq"]) -> Int[Tensor, " tokens"]:
    """Return the number of the packed document that each token belongs to; positions restart at its first token."""
    return (position_ids.flatten() == 0).cumsum(dim=0) - 1
