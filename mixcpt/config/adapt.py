"""Settings of a run."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from mixcpt.config.align import AlignConfig
from mixcpt.config.base import NAME, Settings
from mixcpt.config.curation import CurationConfig
from mixcpt.config.evaluate import EvaluateConfig, has_one_answer
from mixcpt.config.mixture import MixtureConfig
from mixcpt.config.pretrain import PretrainConfig
from mixcpt.config.rewrite import RewriteConfig
from mixcpt.config.runtime import RuntimeConfig
from mixcpt.config.tracking import TrackingConfig

CLOSED_WORLD_BASE = "closed-world"
"""Name of the small base model that ships with mixcpt."""


class BaseModelConfig(Settings):
    """Base model that a run adapts."""

    model: str = CLOSED_WORLD_BASE
    """Base model: a local folder, a model id on the Hugging Face hub, or `closed-world` (the small model that ships
    with mixcpt)."""
    revision: str = ""
    """Commit or tag of a hub model; empty means the newest. A fixed revision makes runs repeatable."""
    chat_template: str = ""
    """Chat format for a model without one: `plain` (User: / Assistant:), `chatml`, or the path of a Jinja file. Empty
    means the model's own."""


class AdaptConfig(Settings):
    """Teach a base model a domain while it keeps its prior knowledge.

    The defaults adapt the model that ships with mixcpt to the closed world.
    """

    name: str = Field("mixcpt", pattern=NAME, json_schema_extra={"position": 0})
    """Name of the run in Prefect, MLflow and the report."""
    seed: int = Field(0, ge=0, json_schema_extra={"position": 1})
    """Seed of mixing, training and selection."""
    data_seed: int = Field(0, ge=0, json_schema_extra={"position": 2})
    """Seed that draws the held-out documents and the questions; runs that are compared must share it."""
    base: BaseModelConfig = Field(BaseModelConfig(), json_schema_extra={"position": 3})
    """Base model to start from."""
    curation: CurationConfig = Field(CurationConfig(), json_schema_extra={"position": 4})
    """Sources of text and their cleaning."""
    rewrite: RewriteConfig = Field(RewriteConfig(), json_schema_extra={"position": 5})
    """Texts in other forms about the documents, made by a model."""
    mixture: MixtureConfig = Field(MixtureConfig(), json_schema_extra={"position": 6})
    """Weights of the pools, and their packing into rows."""
    pretrain: PretrainConfig = Field(PretrainConfig(), json_schema_extra={"position": 7})
    """Stage 1: continual pre-training."""
    align: AlignConfig = Field(AlignConfig(), json_schema_extra={"position": 8})
    """Stage 2: format alignment."""
    evaluate: EvaluateConfig = Field(EvaluateConfig(), json_schema_extra={"position": 9})
    """Tasks, and the statistics of their results."""
    runtime: RuntimeConfig = Field(RuntimeConfig(), json_schema_extra={"position": 10})
    """Store, tracking, processes and devices of the run; no setting here changes a result."""
    tracking: TrackingConfig = Field(TrackingConfig(), json_schema_extra={"position": 10})
    """Tools that show the trainings in addition to MLflow; no setting here changes a result."""

    def identity(self) -> dict[str, Any]:
        """Return the settings as fingerprints contain them, without `rewrite` if it writes no texts."""
        values = super().identity()
        return values if self.rewrite.forms else {key: value for key, value in values.items() if key != "rewrite"}

    @property
    def promised_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the retention promise protects; empty without a promise."""
        promise = self.pretrain.retention
        headlines = (self.evaluate.headline_general,) if self.evaluate.headline_general else ()
        return (promise.tasks or headlines) if promise.max_loss else ()

    @model_validator(mode="after")
    def _check(self) -> "AdaptConfig":
        if problems := [
            *self._pool_problems(),
            *self._method_problems(),
            *self._task_problems(),
            *self._world_problems(),
            *self._promise_problems(),
            *self._batch_problems(),
        ]:
            raise ValueError("; and ".join(problems))
        return self

    def _pool_problems(self) -> Iterator[str]:
        """Yield one message for each pool that is used but has no source."""
        pools = {source.pool for source in self.curation.sources}
        for pool, weight in self.mixture.weights.model_dump().items():
            if weight > 0 and pool not in pools:
                yield (
                    f"mixture.weights.{pool} is {weight} but no source has pool: {pool}; "
                    "add one to curation.sources, or set the weight to 0"
                )
        for pool in ("instructions", "preferences"):
            if getattr(self.align.selection, f"num_{pool}") and pool not in pools:
                yield f"align.selection.num_{pool} is above 0 but no source has pool: {pool}"

    def _method_problems(self) -> Iterator[str]:
        """Yield one message if the method and the pool weights contradict each other."""
        name = self.pretrain.method.kind
        if self._has_general_text and all(stream.reads == "domain" for stream in self.pretrain.method.streams()):
            replacement = "cpt_replay" if name == "cpt" else "streams"
            yield (
                f"pretrain.method {name} reads only domain documents: set the other weights to 0, or use {replacement}"
            )
        if name == "cpt_replay" and not self._has_general_text:
            yield "pretrain.method cpt_replay needs a general pool with a weight above 0, or use cpt"

    @property
    def _has_general_text(self) -> bool:
        weights = self.mixture.weights.model_dump()
        return any(weight > 0 for pool, weight in weights.items() if pool != "domain")

    def _task_problems(self) -> Iterator[str]:
        """Yield one message for each task about held-out records that will not exist."""
        curation = self.curation
        held_out = {"instructions": bool(curation.heldout_instructions)}
        pools = {
            source.pool for source in curation.sources if held_out.get(source.pool, bool(curation.heldout_fraction))
        }
        names = {source.name for source in self.curation.sources}
        for task in self.evaluate.tasks:
            if task.kind == "bits_per_byte" and task.source and task.source not in names:
                yield f"the task {task.name} measures the source {task.source}; the sources are {', '.join(names)}"
            elif task.kind == "bits_per_byte" and task.heldout_pool != "none" and task.heldout_pool not in pools:
                is_answers = task.heldout_pool == "instructions"
                records = "instructions" if is_answers else f"{task.heldout_pool} documents"
                setting = "heldout_instructions" if is_answers else "heldout_fraction"
                yield (
                    f"the task {task.name} measures held-out {records}, but there will be none: "
                    f"add a source with pool: {task.heldout_pool} and set curation.{setting} above 0"
                )

    def _world_problems(self) -> Iterator[str]:
        """Yield one message for each task about a different closed world than the training text."""
        sources = [source for source in self.curation.sources if source.kind == "closed_world"]
        for task in (task for task in self.evaluate.tasks if task.kind == "closed_world"):
            worlds = {
                (source.seed, source.entities)
                for source in sources
                if source.pool == "domain" and source.about == task.about
            }
            if worlds and (task.seed, task.entities) not in worlds:
                seed, entities = next(iter(worlds))
                yield (
                    f"the task {task.name} has seed {task.seed} and {task.entities} entities, but the closed-world "
                    f"source has seed {seed} and {entities} entities: set the task's seed and entities to these values"
                )

    def _promise_problems(self) -> Iterator[str]:
        """Yield one message for each reason why the retention promise cannot be kept or checked."""
        if not self.promised_tasks:
            if self.pretrain.retention.max_loss:
                yield "pretrain.retention protects no task: evaluate.headline_general is empty, so set retention.tasks"
            return
        tasks = {task.name: task for task in self.evaluate.tasks}
        for name in self.promised_tasks:
            if name not in tasks:
                yield f"pretrain.retention.tasks has {name!r}, which is none of the tasks: {', '.join(tasks)}"
            elif not has_one_answer(tasks[name]):
                yield f"pretrain.retention cannot protect {name}: its answers are not single texts, right or wrong"
        if self.evaluate.split in ("all", "probe"):
            yield (
                f"pretrain.retention is steered by the probe questions, and evaluate.split is {self.evaluate.split}: "
                "set evaluate.split to report, because questions that steer a training cannot show its success"
            )
        if self.pretrain.retention.action == "replay" and not self._has_general_text:
            yield "pretrain.retention.action replay needs general text in the mixture: give a general pool a weight"
        if self.runtime.sharding != "none":
            yield "pretrain.retention needs unsharded weights in every process: set runtime.sharding to none"

    def _batch_problems(self) -> Iterator[str]:
        if self.pretrain.batch_rows % (self.pretrain.micro_batch_rows * self.runtime.num_processes):
            yield "pretrain.batch_rows must be a multiple of pretrain.micro_batch_rows x runtime.num_processes"
