"""Continual pre-training: which method, which parameters, which teacher, how fast, how long between checkpoints."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcpt.config.base import PositiveInt, Settings, kind
from mixcpt.config.methods import LssdMethod, Method
from mixcpt.config.optimizer import OptimizerConfig
from mixcpt.config.retention import RetentionConfig


class FullScope(Settings):
    """Every parameter is trained."""

    kind: Literal["full"] = kind("full")


class LoraScope(Settings):
    """Low-rank adapters on all linear layers but the head (arXiv 2106.09685), merged into the published model."""

    kind: Literal["lora"] = kind("lora")
    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveInt = 32
    """The adapters' product is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapters' inputs that is dropped in training."""
    train_embeddings: bool = False
    """Whether the embedding table is trained as a whole."""
    train_norms: bool = False
    """Whether the normalisation weights are trained as a whole."""
    train_head: bool = False
    """Whether the head is trained as a whole; not where it is tied to the embedding table."""


Scope = Annotated[FullScope | LoraScope, Field(discriminator="kind")]


class FrozenTeacher(Settings):
    """A copy of the base model, in bf16 where the training is."""

    kind: Literal["frozen"] = kind("frozen")


class AdapterOffTeacher(Settings):
    """The student itself with its adapters switched off: no second model; needs scope lora."""

    kind: Literal["adapter_off"] = kind("adapter_off")


class CachedTeacher(Settings):
    """What the base model says of every token, computed once and kept on disk; forward KL at temperature 1 only."""

    kind: Literal["cached"] = kind("cached")
    top_k: PositiveInt = 64
    """Likeliest tokens that are kept of each prediction, beside the true one."""


TeacherSettings = Annotated[FrozenTeacher | AdapterOffTeacher | CachedTeacher, Field(discriminator="kind")]


class PretrainConfig(Settings):
    """Knowledge-mixture continual pre-training."""

    method: Method = LssdMethod()
    """What the model is trained to match: lssd (Mix-CPT), disc, streams (several at once), cpt, cpt_replay, kl, none,
    mask, margin, document_dcd, talr, reading or pit; docs/training.md compares them."""
    scope: Scope = FullScope()
    """Which parameters are trained: full (all of them) or lora (adapters)."""
    teacher: TeacherSettings = FrozenTeacher()
    """Where the teacher's predictions come from: frozen (a copy of the base model), adapter_off (the student without
    its adapters) or cached (written to disk once); unused by methods without a teacher."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser and schedule."""
    batch_rows: PositiveInt = 8
    """Packed rows per optimiser step, over all devices."""
    micro_batch_rows: PositiveInt = 8
    """Packed rows per forward; a divisor of batch_rows. Smaller saves memory at the same result."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the computation."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward: less memory, a third more time."""
    checkpoint_steps: PositiveInt = 100
    """Steps between checkpoints; a crash loses at most so many."""
    log_steps: PositiveInt = 10
    """Steps between measurements."""
    retention: RetentionConfig = RetentionConfig()
    """What may be lost at most, if that is promised."""

    @property
    def uses_cache(self) -> bool:
        """Whether some stream follows a teacher whose predictions are kept on disk."""
        return self.teacher.kind == "cached" and any(stream.kl_weight > 0 for stream in self.method.streams())

    @model_validator(mode="after")
    def _check(self) -> "PretrainConfig":
        streams = self.method.streams()
        taught = [stream for stream in streams if stream.kl_weight > 0]
        problems = []
        if self.teacher.kind == "adapter_off" and taught and self.scope.kind != "lora":
            problems.append("teacher adapter_off is the student without its adapters: set scope to lora")
        if self.teacher.kind == "cached":
            problems += [
                f"teacher cached keeps predictions at temperature 1 of what both read, for forward KL alone; stream "
                f"{stream.name} has view {stream.view}, divergence {stream.divergence}, temperature "
                f"{stream.temperature:g}: set teacher to frozen"
                for stream in taught
                if (stream.view, stream.divergence, stream.temperature) != ("text", "forward", 1.0)
            ]
        if self.retention.max_loss and self.retention.act == "alpha" and not taught:
            problems.append(
                f"retention.act alpha needs a teacher, which {self.method.kind} has not: use replay or stop"
            )
        if len(streams) > self.batch_rows:
            problems.append(f"batch_rows is {self.batch_rows}, but every step reads {len(streams)} streams: raise it")
        if problems:
            raise ValueError("; and ".join(problems))
        return self
