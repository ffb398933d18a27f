"""Re-adaptation: what each round reads, from which model it starts, and what must hold before its model serves."""

from typing import Literal

from pydantic import Field, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import PositiveFloat, Settings
from mixcpt.config.compare import NAME

GatedTasks = Literal["new", "earlier", "general", "all"]
"""Tasks about what a round has learned, about what earlier rounds have, about everything else."""


class Gate(Settings):
    """One condition on the candidate; it has to hold for each of its tasks."""

    name: str = Field(pattern=NAME)
    """Name in every table."""
    tasks: GatedTasks = "general"
    """`new`: about the corpora of this round. `earlier`: about those of earlier rounds. `general`: all others."""
    only: tuple[str, ...] = ()
    """Names of tasks, where not all of them."""
    against: Literal["base", "champion"] = "champion"
    """What the candidate is held against: the model that everything began with, or the one that serves now."""
    measure: Literal["answers", "gold"] = "answers"
    """`answers`: the task's own metric. `gold`: bits per byte of the right answers, which moves before answers do."""
    at_least: float = 0.0
    """The least change, counted in the direction in which the task gets better: 0.02 asks for two points more (or 0.02
    bits per byte less), -0.02 allows to lose as much."""
    rule: Literal["sure", "likely", "possible"] = "likely"
    """What has to reach it: the worse end of the change's interval (and more than reach it), the change itself, or its
    better end, so that only what is surely worse fails."""
    severity: Literal["block", "warn"] = "block"
    """Whether the candidate is refused where the gate does not hold, or only marked."""


class Cause(Settings):
    """What the event `mixcpt.corpus.registered` says of a corpus that has arrived; empty for a round without one."""

    corpus: str = ""
    """Name of the corpus."""
    fingerprint: str = ""
    """Of its registration."""
    documents: int = Field(0, ge=0)
    """How many there are to learn."""


class ReadaptConfig(Settings):
    """Teach the model that serves what has been registered since, without losing what it learned before."""

    name: str = Field("readapt", pattern=NAME, json_schema_extra={"position": 0})
    """Name of the rounds in Prefect, MLflow and the report."""
    adapt: AdaptConfig = Field(AdaptConfig(), json_schema_extra={"position": 1})
    """Settings of every round. The first one starts from its base and learns its domain sources and what is registered;
    a later one learns what has been registered since. Its seed, tasks, mixture and method serve all rounds."""
    start: Literal["champion", "base"] = Field("champion", json_schema_extra={"position": 2})
    """`champion`: go on from the model that serves, and read earlier corpora again as general text. `base`: begin anew
    with everything, which costs more each time and forgets nothing between the rounds."""
    replay_weight: float = Field(0.2, ge=0, json_schema_extra={"position": 3})
    """Weight in the mixture of the corpora of earlier rounds, beside `adapt.mixture.weights`."""
    again: tuple[str, ...] = Field((), json_schema_extra={"position": 7})
    """Corpora that a round was refused for, or that were taken back, and that shall be tried again."""
    gates: tuple[Gate, ...] = Field(
        (
            Gate(name="learns", tasks="new", at_least=0.0, rule="sure"),
            Gate(name="keeps-earlier-corpora", tasks="earlier", at_least=-0.05),
            Gate(name="keeps-general", tasks="general", at_least=-0.05),
            Gate(name="keeps-since-base", tasks="general", against="base", at_least=-0.1),
        ),
        json_schema_extra={"position": 4},
    )
    """What must hold before the candidate becomes champion."""
    approval: Literal["automatic", "human"] = Field("automatic", json_schema_extra={"position": 5})
    """`automatic`: the gates decide. `human`: where they hold, the run waits for somebody to look and to answer."""
    approval_hours: PositiveFloat = Field(72.0, json_schema_extra={"position": 6})
    """How long it waits; unanswered, the candidate stays what it is and the champion serves on."""

    @model_validator(mode="after")
    def _check(self) -> "ReadaptConfig":
        names = [gate.name for gate in self.gates]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"gates need names of their own; given twice: {', '.join(twice)}")
        reads_domain = all(stream.reads == "domain" for stream in self.adapt.pretrain.method.streams())
        if self.start == "champion" and self.replay_weight and reads_domain:
            raise ValueError(
                f"adapt.pretrain.method {self.adapt.pretrain.method.kind} reads the domain alone, so that what earlier "
                "rounds learned cannot be read again: choose another, or set replay_weight to 0 and expect forgetting"
            )
        return self
