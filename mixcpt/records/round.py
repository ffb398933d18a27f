"""Reader and writer of the record of a finished round of readaptation; later rounds read the earlier ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

from mixcpt.config import ReadaptConfig
from mixcpt.records.run import JsonRecord, RunResult, load_json, publish_json, recorded_name
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

_KIND = "round"
_VERSION = 1
_Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value),
]
"""Number that is null in JSON if it is NaN, which strict JSON does not have."""

Decision = Literal["promoted", "refused", "declined", "unanswered"]
"""Outcome of a round. The gates decide between promoted and refused. If a person is asked, the outcome is promoted,
declined, or unanswered after the time limit."""


@dataclass(frozen=True, kw_only=True)
class Judgement(JsonRecord):
    """The result of one gate on one task."""

    gate: str
    severity: Literal["block", "warn"]
    task: str
    """Name of the task; empty if the gate could not judge, because it found no task to check."""
    against: Literal["base", "champion"]
    metric: str
    before: _Number
    """Value of the base or the champion."""
    after: _Number
    """Value of the candidate."""
    gain: _Number
    """Improvement of the candidate; negative if it is worse."""
    low: _Number
    high: _Number
    """Upper end of the interval of the gain."""
    rule: str
    at_least: _Number
    split: str
    """Split of the questions."""
    holds: bool
    passages: int = 0
    """Number of passages that the questions are about; 0 in rounds of earlier versions."""
    chance: float = 0.0
    """Expected accuracy of a random choice; 0 without choices, and in rounds of earlier versions."""
    is_at_chance: bool = False
    """Whether neither model differs from guessing."""

    @property
    def is_judged(self) -> bool:
        """Whether the gate found a task to check."""
        return bool(self.task)

    @property
    def has_interval(self) -> bool:
        """Whether the questions are about enough passages for an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def blocks(self) -> bool:
        """Whether this result is enough to refuse the candidate."""
        return self.severity == "block" and not self.holds


@dataclass(frozen=True, kw_only=True)
class Round(JsonRecord):
    """Inputs, models, evaluations and decision of a finished round."""

    number: int
    name: str
    """Name of the series of rounds."""
    new: tuple[str, ...]
    """Names of the corpora that this round learns."""
    earlier: tuple[str, ...]
    """Names of the corpora that earlier rounds learned."""
    tasks: Mapping[str, tuple[str, ...]]
    """Names of the tasks by corpus; tasks without a corpus are listed under the empty name."""
    run: RunResult
    """Run that trained the candidate."""
    evaluations: Mapping[str, ArtifactRef]
    """Evaluations of the models `base`, `champion` (before this round) and `candidate`."""
    judgements: tuple[Judgement, ...]
    decision: Decision
    reason: str
    """Explanation of the decision in one sentence."""
    version: str = ""
    """Version of the candidate in MLflow's registry."""
    decided_by: str = ""
    """Person who decided; empty if the gates decided."""


def save_round(store: ArtifactStore, config: ReadaptConfig, finished: Round) -> ArtifactRef:
    """Publish a round and return its reference."""
    metrics = {"name": finished.name, "number": finished.number, "decision": finished.decision}
    return publish_json(store, _key(config, finished), finished.to_json(), metrics)


def load_rounds(store: ArtifactStore, name: str) -> list[Round]:
    """Return the rounds of a series, oldest first."""
    refs = [ref for ref in store.list(_KIND) if recorded_name(ref) == name]
    return [Round.from_json(load_json(ref)) for ref in refs]


def refused_corpora(rounds: Sequence[Round]) -> list[str]:
    """Return the corpora whose candidate was refused or declined, unless a later round learned them."""
    names: list[str] = []
    for finished in rounds:
        if finished.decision in ("refused", "declined"):
            names += finished.new
        elif finished.decision == "promoted":
            names = [name for name in names if name not in finished.new]
    return names


def _key(config: ReadaptConfig, finished: Round) -> StageKey:
    inputs = {"model": finished.run.refs[finished.run.final].digest}
    inputs |= {f"evaluation-{role}": ref.digest for role, ref in finished.evaluations.items()}
    settings = {
        "name": finished.name,
        "number": finished.number,
        "gates": [gate.identity() for gate in config.gates],
        "decision": finished.decision,
        "reason": finished.reason,
        "version": finished.version,
        "by": finished.decided_by,
    }
    return StageKey(kind=_KIND, version=_VERSION, settings=settings, inputs=inputs)
