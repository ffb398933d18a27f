"""Merging: the weights of models with one architecture are combined without training."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveInt, Settings, kind


class MergeSettings(Settings):
    """Settings of every merge."""

    max_shard_bytes: PositiveInt = 2 * 1024**3
    """Maximum size of one safetensors file of the result, in bytes; a merge needs about as much memory. A larger tensor
    gets its own file."""


class InterpolationSettings(MergeSettings):
    """Settings of a single interpolation and of a sweep."""

    files_of: Literal["base", "tuned"] = "tuned"
    """Model whose configuration, tokenizer and chat template the result gets; a base may have no chat template."""


class InterpolateConfig(InterpolationSettings):
    """A point on the line from base to tuned: (1 - weight) x base + weight x tuned (WiSE-FT)."""

    kind: Literal["interpolate"] = kind("interpolate")
    weight: Fraction = 0.5
    """Weight of the tuned model: 0 is the base, 1 is the tuned model."""


class ResidualConfig(MergeSettings):
    """The change made by instruction tuning, added to an adapted base: adapted + scale x (instruct - base)."""

    kind: Literal["residual"] = kind("residual")
    scale: float = Field(1.0, ge=0)
    """Factor of the added difference instruct - base; 0 leaves the adapted model unchanged."""


class AverageConfig(MergeSettings):
    """Mean of several models, for instance the last checkpoints of a training (model soups)."""

    kind: Literal["average"] = kind("average")


class SweepConfig(InterpolationSettings):
    """Interpolations to evaluate, and the rule that chooses one of them."""

    weights: tuple[Fraction, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)
    """Weights of the tuned model, in rising order; the store gets a complete model for each."""
    max_domain_loss: float = Field(0.02, ge=0)
    """Maximum loss of the headline domain task against its best result, in the unit of the task: 0.02 is two points of
    accuracy. 0 accepts only the best."""

    @model_validator(mode="after")
    def _check(self) -> "SweepConfig":
        if list(self.weights) != sorted(set(self.weights)):
            raise ValueError("weights must be in rising order, without repetition")
        return self

    def interpolation(self, weight: float) -> InterpolateConfig:
        """Return the settings of one interpolation of the sweep."""
        return InterpolateConfig(weight=weight, files_of=self.files_of, max_shard_bytes=self.max_shard_bytes)
