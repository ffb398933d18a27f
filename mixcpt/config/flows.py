"""Settings of the flows that train nothing by themselves: evaluation, promotion, clean-up, stage groups."""

from typing import Any, Literal

from pydantic import Field

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import NAME, Settings
from mixcpt.config.runtime import RuntimeConfig


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


class ReconcileConfig(Settings):
    """Close runs in Prefect and MLflow whose process has ended, and remove their leftovers from the store."""

    store: str = Field(".mixcpt", json_schema_extra={"position": 0})
    """Folder of the artifact store."""
    experiment: str = Field("mixcpt", json_schema_extra={"position": 1})
    """MLflow experiment whose runs are checked."""
    older_than_hours: float = Field(168.0, ge=0, json_schema_extra={"position": 2})
    """Minimum age of leftovers before they are removed, in hours since their last change: half-written artifacts, and
    folders of batches with their logs. 0 removes all. Files that a running process uses are always kept."""
    dry_run: bool = Field(False, json_schema_extra={"position": 3})
    """Whether to only list the actions, without performing them."""


class StageGroupConfig(Settings):
    """Stages that a run has handed over; started by the run's flow, rarely by hand."""

    adapt: AdaptConfig = Field(default_factory=AdaptConfig, json_schema_extra={"position": 0})
    """Settings of the run that the stages belong to."""
    base: dict[str, str] = Field(default_factory=dict, json_schema_extra={"position": 1})
    """Base model of the run: name, folder and digest."""
    run_id: str = Field("", json_schema_extra={"position": 2})
    """Id of the run in MLflow; empty if MLflow is not available."""
    root_flow_run_id: str = Field("", json_schema_extra={"position": 3})
    """Id of the Prefect flow run that waits for the stages."""
    jobs: tuple[dict[str, Any], ...] = Field((), json_schema_extra={"position": 4})
    """Stages to run, in the JSON format of the worker processes."""
    distributed: bool = Field(False, json_schema_extra={"position": 5})
    """Whether the stages start as many processes as the run's settings define."""
