"""Stages that one flow run hands over to another, which runs on the machines of another work pool."""

from typing import Any

from pydantic import Field

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Settings


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
