"""Promotion of a model by hand, and its reversal."""

from pydantic import Field

from mixcpt.config.base import Settings
from mixcpt.config.runtime import RuntimeConfig


class PromoteConfig(Settings):
    """Make a registered model the champion, after a short check of its answers."""

    model: str = Field("challenger", min_length=1)
    """Model to promote: a version number or an alias in MLflow's registry, or the name of a run (its final model)."""
    because: str = Field("by hand", min_length=1, max_length=500)
    """Reason for the promotion, shown in MLflow."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Store, MLflow experiment and name of the registered model."""


class RollbackConfig(Settings):
    """Restore the previous champion."""

    because: str = Field("by hand", min_length=1, max_length=500)
    """Reason for the rollback, shown in MLflow."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Store, MLflow experiment and name of the registered model."""
