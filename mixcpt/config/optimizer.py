"""AdamW and its learning-rate schedule."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveFloat, Settings
from mixcpt.errors import ConfigError


class OptimizerConfig(Settings):
    """AdamW and its learning-rate schedule; used by pre-training, SFT and DPO alike."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the rate falls after the warm-up. `wsd` stays at the peak and decays in the last steps only."""
    warmup_fraction: Fraction = 0.05
    """Share of the steps in which the rate climbs to its peak; the first step is never at rate 0."""
    decay_fraction: Fraction = 0.2
    """`wsd`: share of the steps, at the end, in which the rate falls."""
    final_fraction: Fraction = 0.0
    """What is left of the peak rate at the end; the cosine of a model that shall be trained on ends above 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of the gradient."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean of its square."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradient clipping; 0 switches it off."""
    state: Literal["fp32", "int8"] = "fp32"
    """Number format of the optimiser's means. `int8` needs the extra `mixcpt[int8]` and saves 6 bytes a parameter of
    large layers; embeddings and small ones stay in fp32."""

    @model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction and decay_fraction of schedule wsd must sum to 1 at most")
        return self


def require_optimizer(optimizer: OptimizerConfig) -> None:
    """Raises `ConfigError` where the library of the 8-bit optimiser is asked for, but missing."""
    if optimizer.state == "int8" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer.state is int8, but the library that keeps it (bitsandbytes) is not installed",
            "pip install 'mixcpt[int8]', or set optimizer.state to fp32",
        )
