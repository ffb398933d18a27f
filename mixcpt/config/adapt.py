"""The one object that says what a run does."""

from collections.abc import Iterator

from pydantic import Field, model_validator

from mixcpt.config.align import AlignConfig
from mixcpt.config.base import Settings
from mixcpt.config.curation import CurationConfig
from mixcpt.config.evaluate import EvaluateConfig, has_one_answer
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
    """Seed of mixing, training and selection."""
    data_seed: int = Field(0, ge=0, json_schema_extra={"position": 2})
    """Seed of which documents are held out and which questions are drawn; runs that are compared share it."""
    base: BaseModelConfig = Field(BaseModelConfig(), json_schema_extra={"position": 3})
    """The model to start from."""
    curation: CurationConfig = Field(CurationConfig(), json_schema_extra={"position": 4})
    """Sources and cleaning."""
    mixture: MixtureConfig = Field(MixtureConfig(), json_schema_extra={"position": 5})
    """Weights and packing."""
    pretrain: PretrainConfig = Field(PretrainConfig(), json_schema_extra={"position": 6})
    """Stage 1: continual pre-training."""
    align: AlignConfig = Field(AlignConfig(), json_schema_extra={"position": 7})
    """Stage 2: format alignment."""
    evaluate: EvaluateConfig = Field(EvaluateConfig(), json_schema_extra={"position": 8})
    """What is measured."""
    runtime: RuntimeConfig = Field(RuntimeConfig(), json_schema_extra={"position": 9})
    """Places and processes; never changes a result."""

    @model_validator(mode="after")
    def _check(self) -> "AdaptConfig":
        if problems := [
            *self._pool_problems(),
            *self._task_problems(),
            *self._world_problems(),
            *self._promise_problems(),
            *self._batch_problems(),
        ]:
            raise ValueError("; and ".join(problems))
        return self

    def _pool_problems(self) -> Iterator[str]:
        """Yields what asks for a pool that no source has, and methods that do not go with the weights."""
        pools = {source.pool for source in self.curation.sources}
        weights = self.mixture.weights.model_dump()
        for pool, weight in weights.items():
            if weight > 0 and pool not in pools:
                yield (
                    f"mixture.weights.{pool} is {weight} but no source has pool: {pool}; "
                    "add one to curation.sources, or set the weight to 0"
                )
        for pool in ("instructions", "preferences"):
            if getattr(self.align.selection, f"num_{pool}") and pool not in pools:
                yield f"align.selection.num_{pool} is above 0 but no source has pool: {pool}"
        general = sum(weight for pool, weight in weights.items() if pool != "domain")
        yield from self._reading_problems(general)

    def _reading_problems(self, general: float) -> Iterator[str]:
        """Yields a method that reads other pools than the weights say."""
        name = self.pretrain.method.kind
        if general > 0 and all(stream.reads == "domain" for stream in self.pretrain.method.streams()):
            yield f"pretrain.method {name} reads domain documents alone: set the other weights to 0" + (
                ", or use cpt_replay" if name == "cpt" else ", or use streams"
            )
        if name == "cpt_replay" and general == 0:
            yield "pretrain.method cpt_replay needs a general pool with a weight above 0, or use cpt"

    def _task_problems(self) -> Iterator[str]:
        """Yields tasks on held-out documents that there will not be."""
        pools = {source.pool for source in self.curation.sources} if self.curation.heldout_fraction else set()
        names = {source.name for source in self.curation.sources}
        for task in self.evaluate.tasks:
            if task.kind == "bits_per_byte" and task.source and task.source not in names:
                yield f"the task {task.name} measures the source {task.source}, but there are only {', '.join(names)}"
            elif task.kind == "bits_per_byte" and task.heldout_pool != "none" and task.heldout_pool not in pools:
                yield (
                    f"the task {task.name} measures held-out {task.heldout_pool} documents, but there will be none: "
                    f"add a source with pool: {task.heldout_pool} and a curation.heldout_fraction above 0"
                )

    def _world_problems(self) -> Iterator[str]:
        """Yields tasks that ask for another closed world than the one that training reads."""
        sources = [source for source in self.curation.sources if source.kind == "closed_world"]
        for task in (task for task in self.evaluate.tasks if task.kind == "closed_world"):
            worlds = {
                (each.seed, each.entities) for each in sources if each.pool == "domain" and each.about == task.about
            }
            if worlds and (task.seed, task.entities) not in worlds:
                seed, entities = next(iter(worlds))
                yield (
                    f"the task {task.name} asks about world {task.seed} with {task.entities} entities, but the domain "
                    f"that training reads is of world {seed} with {entities}: set its seed and entities"
                )

    @property
    def promised_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the promise is about; none where nothing is promised."""
        promise = self.pretrain.retention
        return (promise.tasks or (self.evaluate.headline_general,)) if promise.max_loss else ()

    def _promise_problems(self) -> Iterator[str]:
        """Yields a promise that cannot be watched, or whose keeping could not be shown."""
        tasks = {task.name: task for task in self.evaluate.tasks}
        for name in self.promised_tasks:
            if name not in tasks:
                yield f"pretrain.retention.tasks has {name!r}, which is none of the tasks: {', '.join(tasks)}"
            elif not has_one_answer(tasks[name]):
                yield f"pretrain.retention cannot watch {name}: its answers are no single texts that are right or wrong"
        if self.promised_tasks and self.evaluate.split in ("all", "probe"):
            yield (
                f"pretrain.retention is steered by the probe questions, and evaluate.split is {self.evaluate.split}: "
                "set evaluate.split to report, for questions that steered cannot show whether the promise was kept"
            )
        weights = self.mixture.weights.model_dump()
        if (
            self.promised_tasks
            and self.pretrain.retention.act == "replay"
            and set(weights) - {"domain"} == {pool for pool, weight in weights.items() if weight == 0}
        ):
            yield "pretrain.retention.act replay needs general text in the mixture: give a general pool a weight"
        if self.promised_tasks and self.runtime.sharding != "none":
            yield "pretrain.retention needs whole weights in every process: set runtime.sharding to none"

    def _batch_problems(self) -> Iterator[str]:
        if self.pretrain.batch_rows % (self.pretrain.micro_batch_rows * self.runtime.num_processes):
            yield "pretrain.batch_rows must be a multiple of pretrain.micro_batch_rows x runtime.num_processes"
