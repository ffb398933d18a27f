"""Evaluation of any model with the tasks of some settings."""

from typing import Literal

from pydantic import Field

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Settings
from mixcpt.config.compare import NAME


class EvaluateModelConfig(Settings):
    """Evaluation of one model against the base of some settings; nothing is trained."""

    name: str = Field("evaluation", pattern=NAME)
    """Name of the evaluation in Prefect and MLflow."""
    model: str = Field("champion", min_length=1)
    """Model to evaluate: a folder, a hub id (owner/model), the name of a run (its final model), RUN@pretrained, the
    name of a merge, or a version number or alias in MLflow's registry."""
    form: Literal["plain", "chat"] = "plain"
    """Prompt form of the model: `plain` (plain text) or `chat` (its chat template). The base gets plain text."""
    settings: AdaptConfig = AdaptConfig()
    """Settings whose base, sources and tasks are used."""
