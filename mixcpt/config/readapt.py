"""Re-adaptation in rounds: the corpora, the starting model of a round, and the conditions for promoting its result."""

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import NAME, PositiveFloat, Settings, require_unique
from mixcpt.config.curation import Source
from mixcpt.config.evaluate import BitsPerByteTask, Task, has_one_answer

GatedTasks = Literal["new", "earlier", "general", "all"]
"""Tasks of a gate: about the corpora of this round, about the corpora of earlier rounds, all others, or all."""


class CorpusConfig(Settings):
    """Documents of a domain, and questions about them."""

    source: Source
    """Source of the documents, with pool domain; its name is the name of the corpus."""
    tasks: tuple[Task, ...] = ()
    """Questions about the documents, with group domain. Bits per byte of the held-out documents is always measured;
    empty measures nothing else."""
    note: str = Field("", max_length=1000)
    """Note about the origin of the corpus, shown in the lineage; must not contain secrets."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.source.name

    @model_validator(mode="after")
    def _check(self) -> "CorpusConfig":
        if self.source.pool != "domain":
            raise ValueError(f"source.pool is {self.source.pool}: a corpus contains new knowledge, set pool to domain")
        for task in self.tasks:
            if task.group != "domain":
                raise ValueError(f"the task {task.name} has group {task.group}: set group to domain")
            if isinstance(task, BitsPerByteTask) and not task.path:
                raise ValueError(f"the task {task.name} measures held-out documents, which is always done: remove it")
        require_unique("task names", [task.name for task in self.tasks])
        return self


class Gate(Settings):
    """One condition on the candidate model; it must hold for each of its tasks."""

    name: str = Field(pattern=NAME)
    """Name of the gate in all tables."""
    tasks: GatedTasks = "general"
    """Tasks that the gate checks: `new` (about the corpora of this round), `earlier` (about the corpora of earlier
    rounds), `general` (all others), or `all`."""
    only: tuple[str, ...] = ()
    """Names of the checked tasks within `tasks`; empty means all of them."""
    against: Literal["base", "champion"] = "champion"
    """Model that the candidate is compared with: `base` (the first model of all) or `champion` (the currently serving
    model)."""
    measure: Literal["answers", "gold"] = "answers"
    """Compared quantity: `answers` (the task's own metric) or `gold` (bits per byte of the correct answers, which
    changes before the answers do)."""
    at_least: float = 0.0
    """Minimum improvement: 0.02 requires two points more, or 0.02 bits per byte less. A negative value allows a loss of
    this size; 0 allows none."""
    rule: Literal["sure", "likely", "possible"] = "likely"
    """Value that must reach `at_least`. `sure`: the worse end of the interval of the change, which must exceed it.
    `likely`: the measured change. `possible`: the better end of the interval, so only a certain loss fails."""
    severity: Literal["block", "warn"] = "block"
    """Consequence if the gate fails or cannot judge: `block` (the candidate is refused) or `warn` (the candidate is
    marked)."""

    def can_judge(self, general_tasks: Collection[str]) -> bool:
        """Return whether a gate that protects general tasks has one to check; other gates always can judge."""
        if self.tasks == "general":
            return any(name in general_tasks for name in self.only) if self.only else bool(general_tasks)
        return self.tasks != "all" or bool(self.only) or bool(general_tasks)


class Cause(Settings):
    """Content of the event `mixcpt.corpus.registered` about a new corpus; empty for a round without an event."""

    corpus: str = ""
    """Name of the corpus; empty for a round without an event."""
    fingerprint: str = ""
    """Fingerprint of the registered corpus."""
    documents: int = Field(0, ge=0)
    """Number of documents to learn."""


class ReadaptConfig(Settings):
    """Teach the serving model all newly registered corpora while it keeps the earlier ones."""

    name: str = Field("readapt", pattern=NAME, json_schema_extra={"position": 0})
    """Name of the rounds in Prefect, MLflow and the report."""
    adapt: AdaptConfig = Field(AdaptConfig(), json_schema_extra={"position": 1})
    """Settings of every round. The first round starts from the base and learns the domain sources and all registered
    corpora; each later round learns the corpora registered since. All rounds share seed, tasks, mixture and method."""
    start: Literal["champion", "base"] = Field("champion", json_schema_extra={"position": 2})
    """Starting model of a round. `champion`: continue from the serving model, with earlier corpora as general text.
    `base`: train the base again on all corpora, which costs more each time but forgets nothing between rounds."""
    replay_weight: float = Field(0.2, ge=0, json_schema_extra={"position": 3})
    """Weight of the corpora of earlier rounds, in addition to `adapt.mixture.weights`; 0 reads none of them again."""
    again: tuple[str, ...] = Field((), json_schema_extra={"position": 7})
    """Names of corpora to try again after their round was refused or rolled back; empty retries none."""
    gates: tuple[Gate, ...] = Field(
        (
            Gate(name="learns", tasks="new", at_least=0.0, rule="sure"),
            Gate(name="keeps-earlier-corpora", tasks="earlier", at_least=-0.05),
            Gate(name="keeps-general", tasks="general", at_least=-0.05),
            Gate(name="keeps-since-base", tasks="general", against="base", at_least=-0.1),
        ),
        json_schema_extra={"position": 4},
    )
    """Conditions that the candidate must meet before it becomes champion; empty promotes every candidate."""
    approval: Literal["automatic", "human"] = Field("automatic", json_schema_extra={"position": 5})
    """Decision after all gates hold: `automatic` (promote at once) or `human` (the run waits for a person's answer)."""
    approval_hours: PositiveFloat = Field(72.0, json_schema_extra={"position": 6})
    """Maximum time to wait for a person's answer, in hours; without an answer the current champion keeps serving."""

    @model_validator(mode="after")
    def _check(self) -> "ReadaptConfig":
        require_unique("gate names", [gate.name for gate in self.gates])
        self._require_general_tasks()
        reads_domain = all(stream.reads == "domain" for stream in self.adapt.pretrain.method.streams())
        if self.start == "champion" and self.replay_weight and reads_domain:
            raise ValueError(
                f"adapt.pretrain.method {self.adapt.pretrain.method.kind} reads only domain documents and cannot "
                "replay earlier corpora: choose another method, or set replay_weight to 0 and expect forgetting"
            )
        return self

    def _require_general_tasks(self) -> None:
        """Refuse gates that would refuse every candidate, because no task can show forgetting."""
        blind = [gate.name for gate in self.gates if gate.severity == "block" and not self._can_judge(gate)]
        if blind:
            raise ValueError(
                f"gates: {', '.join(blind)} cannot judge forgetting, because adapt.evaluate.tasks has no general task "
                "that they can check: add {kind: bits_per_byte, name: general_text, group: general, path: shipped} to "
                "adapt.evaluate.tasks and set adapt.evaluate.headline_general: general_text (a gate with measure: gold "
                "needs questions), or set severity: warn for these gates to promote without a measure of forgetting"
            )

    def _can_judge(self, gate: Gate) -> bool:
        tasks = [task for task in self.adapt.evaluate.tasks if task.group == "general"]
        return gate.can_judge([task.name for task in tasks if gate.measure == "answers" or has_one_answer(task)])
