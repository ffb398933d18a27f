"""Continual pre-training: method, trained parameters, teacher, retention promise, optimiser and checkpoints."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import PositiveInt, Settings, kind
from mixcpt.config.methods import LssdMethod, Method
from mixcpt.config.optimizer import OptimizerConfig


class FullScopeConfig(Settings):
    """Training of every parameter."""

    kind: Literal["full"] = kind("full")


class LoraScopeConfig(Settings):
    """Low-rank adapters on all linear layers except the head (arXiv 2106.09685), merged into the published model."""

    kind: Literal["lora"] = kind("lora")
    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveInt = 32
    """Numerator of the adapters' scale alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapters' inputs that is dropped during training; 0 drops none."""
    train_embeddings: bool = False
    """Whether the embedding table is trained in full, without adapters."""
    train_norms: bool = False
    """Whether the normalisation weights are trained."""
    train_head: bool = False
    """Whether the output head is trained in full, without adapters; refused if it is tied to the embedding table."""


Scope = Annotated[FullScopeConfig | LoraScopeConfig, Field(discriminator="kind")]


class FrozenTeacherConfig(Settings):
    """A frozen copy of the base model, in bf16 if the training computes in bf16."""

    kind: Literal["frozen"] = kind("frozen")


class AdapterOffTeacherConfig(Settings):
    """The student with its adapters switched off: no second model in memory; needs scope lora."""

    kind: Literal["adapter_off"] = kind("adapter_off")


class CachedTeacherConfig(Settings):
    """Predictions of the base model for every token, computed once and stored on disk; temperature 1 only."""

    kind: Literal["cached"] = kind("cached")
    top_k: PositiveInt = 64
    """Number of most likely tokens stored per prediction, in addition to the true token."""


TeacherConfig = Annotated[
    FrozenTeacherConfig | AdapterOffTeacherConfig | CachedTeacherConfig, Field(discriminator="kind")
]


class RetentionConfig(Settings):
    """A promise that training keeps, steered by probe questions that no report shows."""

    max_loss: float = Field(0.0, ge=0, lt=1)
    """Maximum share of the questions that the model may lose in any protected task: 0.02 is two points. 0 means no
    promise."""
    tasks: tuple[str, ...] = ()
    """Names of the protected tasks, which need right and wrong answers; empty means `evaluate.headline_general`."""
    action: Literal["alpha", "replay", "stop", "none"] = "alpha"
    """Reaction of the training if the probe measures a higher loss than promised. `alpha`: shift weight from the true
    token to the teacher. `replay`: shift weight from domain text to general text. `stop`: end the training. `none`: no
    reaction. After every training the weights move back towards the base until the promise holds."""
    check_steps: PositiveInt = 10
    """Optimiser steps between two measurements on the probe questions."""
    confidence: float = Field(0.7, gt=0, lt=1)
    """One-sided confidence that the loss is at most `max_loss`, required at the end of training. Higher is more
    cautious."""


class PretrainConfig(Settings):
    """Knowledge-mixture continual pre-training."""

    method: Method = LssdMethod()
    """Training method: lssd (Mix-CPT), disc, streams (several at once), cpt, cpt_replay, kl, none, mask, margin,
    document_dcd, talr, reading or pit; docs/training.md compares them."""
    scope: Scope = FullScopeConfig()
    """Trained parameters: full (all of them) or lora (adapters)."""
    teacher: TeacherConfig = FrozenTeacherConfig()
    """Source of the teacher's predictions: frozen (a copy of the base model), adapter_off (the student without its
    adapters) or cached (computed once and stored on disk). Methods without a teacher ignore it."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser and learning-rate schedule of pre-training."""
    batch_rows: PositiveInt = 8
    """Packed rows per optimiser step, summed over all devices."""
    micro_batch_rows: PositiveInt = 8
    """Packed rows per forward pass; must divide `batch_rows`. A smaller value saves memory and gives the same
    result."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the computation."""
    gradient_checkpointing: bool = False
    """Whether the backward pass recomputes activations: saves memory and takes about a third more time."""
    checkpoint_steps: PositiveInt = 100
    """Optimiser steps between two checkpoints; a crash loses at most this many steps."""
    log_steps: PositiveInt = 10
    """Optimiser steps between two logged measurements."""
    divergence: Literal["stop", "return", "ignore"] = "stop"
    """Reaction to a cross-entropy that stays far above its start, by more than a nat: `stop` ends the stage with an
    error and keeps the last checkpoint, `return` publishes the weights of the last checkpoint whose cross-entropy was
    not above its start (`stop` if there is none), `ignore` goes on. A value that is not finite ends the training in any
    case."""
    packing: Literal["auto", "packed", "one_document"] = "auto"
    """Documents per row that the model reads: `packed` (several, without padding), `one_document` (one, filled with
    padding, which takes more time), or `auto` (packed, unless the architecture mixes the documents of a row)."""
    retention: RetentionConfig = RetentionConfig()
    """Promise about the maximum loss of existing skills; by default nothing is promised."""

    @property
    def uses_cache(self) -> bool:
        """Whether some stream follows a teacher whose predictions are stored on disk."""
        return self.teacher.kind == "cached" and any(stream.needs_teacher for stream in self.method.streams())

    @model_validator(mode="after")
    def _check(self) -> "PretrainConfig":
        if problems := [*self._teacher_problems(), *self._stream_problems()]:
            raise ValueError("; and ".join(problems))
        return self

    def _teacher_problems(self) -> Iterator[str]:
        """Yield one message for each conflict between the teacher and the streams that follow it."""
        distilled = [stream for stream in self.method.streams() if stream.needs_teacher]
        if self.teacher.kind == "adapter_off" and distilled and self.scope.kind != "lora":
            yield "teacher adapter_off is the student without its adapters: set scope to lora"
        if self.teacher.kind == "cached":
            for stream in distilled:
                if (stream.view, stream.temperature) != ("text", 1.0):
                    yield (
                        "teacher cached stores predictions at temperature 1 for text that teacher and student both "
                        f"read; stream {stream.name} has view {stream.view} and temperature {stream.temperature:g}: "
                        "set teacher to frozen"
                    )
        if self.retention.max_loss and self.retention.action == "alpha" and not distilled:
            yield f"retention.action alpha needs a teacher, and {self.method.kind} has none: use replay or stop"

    def _stream_problems(self) -> Iterator[str]:
        if (count := len(self.method.streams())) > self.batch_rows:
            yield f"batch_rows is {self.batch_rows}, but every step reads {count} streams: raise it"
