"""Stages that one flow run hands to another, on the machines of another work pool."""

from typing import Any

from pydantic import Field

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Settings


class StageGroupConfig(Settings):
    """Stages that a run has handed over. Started by its flow, hardly ever by hand."""

    adapt: AdaptConfig = Field(default_factory=AdaptConfig, json_schema_extra={"position": 0})
    """Settings of the run that they belong to."""
    base: dict[str, str] = Field(default_factory=dict, json_schema_extra={"position": 1})
    """Its base model: name, folder, digest."""
    run_id: str = Field("", json_schema_extra={"position": 2})
    """Its run in MLflow."""
    root_flow_run_id: str = Field("", json_schema_extra={"position": 3})
    """The flow run that waits for them."""
    jobs: tuple[dict[str, Any], ...] = Field((), json_schema_extra={"position": 4})
    """The stages, in the form in which worker processes read them."""
    distributed: bool = Field(False, json_schema_extra={"position": 5})
    """Whether they take as many processes as the run's settings say."""
