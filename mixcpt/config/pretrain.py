"""Continual pre-training: which method, how fast, how long between checkpoints."""

from typing import Annotated, Literal

from pydantic import Field

from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings, kind


class CptMethod(Settings):
    """Plain continual pre-training on domain documents: next-token prediction, no teacher."""

    kind: Literal["cpt"] = kind("cpt")


class CptReplayMethod(Settings):
    """Next-token prediction on domain and general text together, no teacher."""

    kind: Literal["cpt_replay"] = kind("cpt_replay")


class KlMethod(Settings):
    """Next-token prediction plus a small pull towards the base model's own predictions."""

    kind: Literal["kl"] = kind("kl")
    kl_weight: float = Field(0.1, ge=0)
    """Weight of KL(base || student) beside a cross-entropy of weight 1."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student in the KL term only."""


class LssdMethod(Settings):
    """Mix-CPT's logit swap self-distillation: the base model teaches, with its top logit moved to the true token."""

    kind: Literal["lssd"] = kind("lssd")
    alpha: Fraction = 0.5
    """Weight of next-token prediction; 1 - alpha goes to the distillation. 1 is plain training."""
    temperature: PositiveFloat = 1.0
    """Softens teacher and student in the distillation term only."""


Method = Annotated[CptMethod | CptReplayMethod | KlMethod | LssdMethod, Field(discriminator="kind")]


class OptimizerConfig(Settings):
    """AdamW and its learning-rate schedule; used by pre-training, SFT and DPO alike."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup_fraction: Fraction = 0.05
    """Share of the steps in which the rate climbs to its peak."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradient clipping; 0 switches it off."""


class PretrainConfig(Settings):
    """Knowledge-mixture continual pre-training."""

    method: Method = LssdMethod()
    """What the model is trained to match."""
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
