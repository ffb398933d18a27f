"""Typed reader of the metrics that a training records with its model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mixcpt.errors import ArtifactError
from mixcpt.store.artifacts import ArtifactRef, from_fields


@dataclass(frozen=True, kw_only=True)
class RetentionOutcome:
    """Outcome of the promise to limit losses."""

    share_of_change: int | float
    """Fraction of the change by training that remains in the weights; 1 is all of it."""
    pressure: int | float
    """Pressure at the end of training; 0 if the losses never exceeded the promise."""


@dataclass(frozen=True, kw_only=True)
class ReturnOutcome:
    """End of a training that diverged and returned to a good checkpoint (`pretrain.divergence: return`)."""

    stopped_step: int
    """Step at which the training ended."""
    total_steps: int
    """Planned steps."""
    kept_step: int
    """Step of the published weights."""
    reason: str

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        return (
            f"the training stopped at step {self.stopped_step} of {self.total_steps} because its loss diverged; the "
            f"model has the weights of step {self.kept_step} ({self.reason})"
        )


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """Effort of a training; None if its stage does not record the value."""

    steps: int | None = None
    """Number of optimiser steps."""
    rows: int | None = None
    """Number of rows of the mixture."""
    num_samples: int | None = None
    """Number of samples of SFT or DPO."""
    tokens: int | None = None
    """Tokens read, padding included."""
    train_seconds: int | float | None = None
    """Time of all training steps in seconds, including interrupted attempts."""
    tokens_per_second: int | float | None = None
    """Tokens read per second of training."""
    padding_share: float | None = None
    """Share of padding in everything that the model read."""
    flops: int | float | None = None
    """Floating-point operations of student and teacher."""
    peak_memory_bytes: int | None = None
    """Peak memory per device in bytes."""
    num_parameters: int | None = None
    """Number of parameters of the model."""
    num_trained_parameters: int | None = None
    """Number of parameters that the training changes."""
    final: Mapping[str, int | float] = field(default_factory=dict)
    """Metrics of the last step."""
    retention: RetentionOutcome | None = None
    """Outcome of the promise; None if the settings promise nothing."""
    divergence: ReturnOutcome | None = None
    """Outcome of a training that diverged; None if it did not."""

    @property
    def flops_per_token(self) -> float:
        """Operations per token; raises `ArtifactError` if the artifact is not a trained model."""
        if self.flops is None or self.tokens is None:
            raise ArtifactError("this artifact records neither operations nor tokens", "use a trained model")
        return self.flops / self.tokens

    @classmethod
    def of(cls, ref: ArtifactRef) -> "TrainingMetrics":
        """Return the metrics that a training recorded with its model."""
        metrics: Mapping[str, Any] = ref.record["metrics"]
        retention = from_fields(RetentionOutcome, metrics["retention"]) if "retention" in metrics else None
        divergence = from_fields(ReturnOutcome, metrics["divergence"]) if "divergence" in metrics else None
        return from_fields(cls, metrics, retention=retention, divergence=divergence)
