"""Merging: models of one architecture combined weight by weight, without any training."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, PositiveInt, Settings, kind


class MergeSettings(Settings):
    """What all merges have."""

    max_shard_bytes: PositiveInt = 2 * 1024**3
    """Largest safetensors file of the result, and about the memory that a merge needs.
    A single tensor that is larger gets a file of its own."""


class InterpolationSettings(MergeSettings):
    """What one interpolation and a sweep over many share."""

    files_of: Literal["base", "tuned"] = "tuned"
    """Whose configuration, tokenizer and chat template the result gets; a base may have no chat template."""


class InterpolateConfig(InterpolationSettings):
    """A point on the line from base to tuned: (1 - weight) x base + weight x tuned (WiSE-FT)."""

    kind: Literal["interpolate"] = kind("interpolate")
    weight: Fraction = 0.5
    """Share of the tuned model: 0 is the base, 1 the tuned model."""


class ResidualConfig(MergeSettings):
    """What instruction tuning changed, added to an adapted base: adapted + scale x (instruct - base)."""

    kind: Literal["residual"] = kind("residual")
    scale: float = Field(1.0, ge=0)
    """How much of instruct - base is added; 0 leaves the adapted model as it is."""


class AverageConfig(MergeSettings):
    """The mean of several models, for instance the last checkpoints of a training (model soups)."""

    kind: Literal["average"] = kind("average")


class SweepConfig(InterpolationSettings):
    """Which interpolations are tried, and which of them is chosen."""

    weights: tuple[Fraction, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)
    """Shares of the tuned model, in rising order. Every one is a whole model in the store."""
    max_domain_loss: float = Field(0.02, ge=0)
    """How far the headline domain task may be from its best, in its own unit: 0.02 is two points of accuracy."""

    @model_validator(mode="after")
    def _check(self) -> "SweepConfig":
        if list(self.weights) != sorted(set(self.weights)):
            raise ValueError("weights must rise, each given once")
        return self

    def interpolation(self, weight: float) -> InterpolateConfig:
        """Returns the settings of one interpolation of the sweep."""
        return InterpolateConfig(weight=weight, files_of=self.files_of, max_shard_bytes=self.max_shard_bytes)
