"""Settings of the short form, and of flows that train nothing: evaluation, promotion, clean-up, stage groups."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import NAME, Settings
from mixcpt.config.presets import AUTOMATIC, preset_names
from mixcpt.config.runtime import RuntimeConfig


def _own_settings(schema: dict[str, Any]) -> None:
    """Require a model and documents in the schema of a form, unless a preset has them."""
    chosen = {"properties": {"preset": {"const": AUTOMATIC}}}
    given = {"model": {"minLength": 1}, "documents": {"minItems": 1}}
    schema |= {"if": chosen, "then": {"properties": given, "required": list(given)}}


def _list_presets(schema: dict[str, Any]) -> None:
    schema["enum"] = preset_names()
    schema["position"] = 1


class QuickRun(Settings):
    """Short form of a run: a model and documents of your own. Other settings come from a preset."""

    model_config = ConfigDict(json_schema_extra=_own_settings)

    name: str = Field("my-model", pattern=NAME, title="Name", json_schema_extra={"position": 0})
    """Name of the run in Prefect, MLflow and the report."""
    preset: str = Field(AUTOMATIC, title="Preset", json_schema_extra=_list_presets)
    """Source of all other settings. `automatic`: they follow from the model, the documents and the machine. Every
    other name is a file: yours in the folder presets of the store, or one that ships with mixcpt."""
    model: str = Field("", title="Model", json_schema_extra={"position": 2})
    """Model to adapt: a folder on the worker's machine, or a hub id such as HuggingFaceTB/SmolLM2-135M. `automatic`
    needs one; otherwise empty means the preset's model."""
    documents: list[str] = Field([], title="Documents", json_schema_extra={"position": 3})
    """Files, folders or globs with the new knowledge (txt, md, jsonl, parquet), as absolute paths on the worker's
    machine. `automatic` needs some; otherwise empty means the preset's documents."""
    questions: list[str] = Field([], title="Questions", json_schema_extra={"position": 4})
    """Files with multiple-choice questions about the documents (jsonl, json, csv, tsv). Without any, the prediction of
    held-out documents is measured."""
    instructions: list[str] = Field([], title="General instructions", json_schema_extra={"position": 5})
    """Files with general instructions and answers, which protect prior knowledge and teach the chat form. Empty: the
    preset's instructions."""
    preferences: list[str] = Field([], title="General preferences", json_schema_extra={"position": 6})
    """Files with general prompts, each with a better and a worse answer. Empty: the preset's preferences."""
    total_tokens: int = Field(0, ge=0, title="Size of the run, in tokens", json_schema_extra={"position": 7})
    """Length of the training. 0: the preset's length."""
    with_traditional: bool = Field(False, title="With the traditional chain", json_schema_extra={"position": 8})
    """Whether the traditional chain (plain continued training, SFT, DPO) also runs on the same data, for comparison."""
    store: str = Field(".mixcpt", title="Store", json_schema_extra={"position": 9})
    """Folder of the artifact store."""
    gpu_pool: str = Field("", title="GPU pool", json_schema_extra={"position": 10})
    """Prefect work pool of the stages that use a GPU. Empty: the machine of the run."""

    @model_validator(mode="after")
    def _check(self) -> "QuickRun":
        missing = [name for name in ("model", "documents") if not getattr(self, name)]
        if self.preset == AUTOMATIC and missing:
            raise ValueError(f"preset {AUTOMATIC} needs {' and '.join(missing)}: the settings follow from them")
        return self


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
