"""Which model serves: a promotion by hand, and the way back."""

from pydantic import Field

from mixcpt.config.base import Settings
from mixcpt.config.runtime import RuntimeConfig


class PromoteConfig(Settings):
    """Make a registered model the champion, after asking it a few questions again."""

    model: str = Field("challenger", min_length=1)
    """Number of a version in MLflow's registry, an alias of one, or the name of a run, whose final model is meant."""
    because: str = Field("by hand", min_length=1, max_length=500)
    """Why, for whoever reads it in MLflow."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Store, experiment and name of the registered model."""


class RollbackConfig(Settings):
    """Put the champion before the present one back in its place."""

    because: str = Field("by hand", min_length=1, max_length=500)
    """Why, for whoever reads it in MLflow."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Store, experiment and name of the registered model."""
