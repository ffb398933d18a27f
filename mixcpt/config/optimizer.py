"""AdamW and its learning-rate schedule."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, Settings
from mixcpt.errors import ConfigError


class OptimizerConfig(Settings):
    """AdamW and its learning-rate schedule, for pre-training, SFT and DPO."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape of the learning rate after the warm-up. `cosine` and `linear` decay until the last step, `constant` stays
    at the peak, and `wsd` stays at the peak and decays in the last steps (`decay_fraction`)."""
    warmup_fraction: Fraction = 0.05
    """Share of the steps in which the learning rate rises to its peak; the first step never has rate 0. 0 starts at the
    peak."""
    decay_fraction: Fraction = 0.2
    """Share of the steps, at the end, in which the learning rate falls (schedule `wsd` only)."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end of the decay, as a share of the peak. 0 decays to zero; use a value above 0 if the model
    will be trained further."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; 0 disables it."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay rate of the running mean of the gradient."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay rate of the running mean of the squared gradient."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Maximum norm of the gradient; larger gradients are scaled down. 0 disables clipping."""
    state: Literal["fp32", "int8"] = "fp32"
    """Number format of the optimiser state. `int8` needs the extra `mixcpt[int8]` and saves 6 bytes per parameter of
    large layers; embeddings and small layers stay in fp32."""

    @model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction must be at most 1 with schedule wsd")
        return self


def require_optimizer(optimizer: OptimizerConfig) -> None:
    """Raise `ConfigError` if the 8-bit optimiser is configured but its library is not installed."""
    if optimizer.state == "int8" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer.state is int8, but its library (bitsandbytes) is not installed",
            "pip install 'mixcpt[int8]', or set optimizer.state to fp32",
        )
