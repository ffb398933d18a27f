"""Asking a model that no run of these settings made."""

from typing import Literal

from pydantic import Field

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Settings
from mixcpt.config.compare import NAME


class EvaluateModelConfig(Settings):
    """Ask a model the questions of some settings, and hold it against their base; nothing is trained."""

    name: str = Field("evaluation", pattern=NAME)
    """Name of the evaluation in Prefect and MLflow."""
    model: str = Field("champion", min_length=1)
    """A folder, a hub id (owner/model), a run (its final model), RUN@pretrained, a merge; or a version number or alias
    in MLflow's registry."""
    form: Literal["plain", "chat"] = "plain"
    """How the model is asked; the base is asked in plain text."""
    settings: AdaptConfig = AdaptConfig()
    """Whose base, sources and tasks are used."""
