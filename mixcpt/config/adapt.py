"""The one object that says what a run does."""

from pydantic import Field, model_validator

from mixcpt.config.align import AlignConfig
from mixcpt.config.base import Settings
from mixcpt.config.curation import CurationConfig
from mixcpt.config.evaluate import EvaluateConfig
from mixcpt.config.mixture import MixtureConfig
from mixcpt.config.model import BaseModelConfig
from mixcpt.config.pretrain import PretrainConfig
from mixcpt.config.runtime import RuntimeConfig


class AdaptConfig(Settings):
    """Teach a base model a domain without losing what it knows.

    The defaults adapt the model that ships with mixcpt to the closed world.
    """

    name: str = Field("mixcpt", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", json_schema_extra={"position": 0})
    """Name of the run in Prefect, MLflow and the report."""
    seed: int = Field(0, ge=0, json_schema_extra={"position": 1})
    """Seed of every random choice."""
    base: BaseModelConfig = Field(BaseModelConfig(), json_schema_extra={"position": 2})
    """The model to start from."""
    curation: CurationConfig = Field(CurationConfig(), json_schema_extra={"position": 3})
    """Sources and cleaning."""
    mixture: MixtureConfig = Field(MixtureConfig(), json_schema_extra={"position": 4})
    """Weights and packing."""
    pretrain: PretrainConfig = Field(PretrainConfig(), json_schema_extra={"position": 5})
    """Stage 1: continual pre-training."""
    align: AlignConfig = Field(AlignConfig(), json_schema_extra={"position": 6})
    """Stage 2: format alignment."""
    evaluate: EvaluateConfig = Field(EvaluateConfig(), json_schema_extra={"position": 7})
    """What is measured."""
    runtime: RuntimeConfig = Field(RuntimeConfig(), json_schema_extra={"position": 8})
    """Places and processes; never changes a result."""

    @model_validator(mode="after")
    def _check(self) -> "AdaptConfig":
        pools = {source.pool for source in self.curation.sources}
        weights = self.mixture.weights.model_dump()
        for pool, weight in weights.items():
            if weight > 0 and pool not in pools:
                raise ValueError(
                    f"mixture.weights.{pool} is {weight} but no source has pool: {pool}; "
                    "add one to curation.sources, or set the weight to 0"
                )
        general = sum(weight for pool, weight in weights.items() if pool != "domain")
        method = self.pretrain.method.kind
        if method == "cpt" and general > 0:
            raise ValueError(
                "pretrain.method cpt reads domain documents alone: set the other weights to 0, or use cpt_replay"
            )
        if method == "cpt_replay" and general == 0:
            raise ValueError("pretrain.method cpt_replay needs a general pool with a weight above 0, or use cpt")
        if self.align.selection.num_instructions and "instructions" not in pools:
            raise ValueError("align.selection.num_instructions is above 0 but no source has pool: instructions")
        if self.align.selection.num_preferences and "preferences" not in pools:
            raise ValueError("align.selection.num_preferences is above 0 but no source has pool: preferences")
        if self.pretrain.batch_rows % (self.pretrain.micro_batch_rows * self.runtime.num_processes):
            raise ValueError(
                "pretrain.batch_rows must be a multiple of pretrain.micro_batch_rows x runtime.num_processes"
            )
        return self
