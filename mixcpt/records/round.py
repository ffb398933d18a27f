"""Reader and writer of the record of a finished round of readaptation; later rounds read the earlier ones."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixcpt.config import ReadaptConfig
from mixcpt.records.run import RunResult, recorded_name
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.fields import read_object

_KIND = "round"
_VERSION = 1
_FILE = "round.json"

Decision = Literal["promoted", "refused", "declined", "unanswered"]
"""Outcome of a round. The gates decide between promoted and refused. If a person is asked, the outcome is promoted,
declined, or unanswered after the time limit."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The result of one gate on one task."""

    gate: str
    severity: Literal["block", "warn"]
    task: str
    against: Literal["base", "champion"]
    metric: str
    before: float
    """Value of the base or the champion."""
    after: float
    """Value of the candidate."""
    gain: float
    """Improvement of the candidate; negative if it is worse."""
    low: float
    high: float
    """Upper end of the interval of the gain."""
    rule: str
    at_least: float
    split: str
    """Split of the questions."""
    holds: bool

    @property
    def blocks(self) -> bool:
        """Whether this result is enough to refuse the candidate."""
        return self.severity == "block" and not self.holds

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with None for NaN, which strict JSON does not have."""
        return {name: None if _is_nan(value) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Judgement":
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in data.items()}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Round:
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

    def to_json(self) -> dict[str, Any]:
        converted = {
            "run": self.run.to_json(),
            "evaluations": {role: ref.to_json() for role, ref in self.evaluations.items()},
            "judgements": [judgement.to_json() for judgement in self.judgements],
        }
        return {name: value for name, value in vars(self).items() if name not in converted} | converted

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Round":
        return cls(
            **dict(data)
            | {
                "new": tuple(data["new"]),
                "earlier": tuple(data["earlier"]),
                "tasks": {corpus: tuple(names) for corpus, names in data["tasks"].items()},
                "run": RunResult.from_json(data["run"]),
                "evaluations": {role: ArtifactRef.from_json(ref) for role, ref in data["evaluations"].items()},
                "judgements": tuple(Judgement.from_json(judgement) for judgement in data["judgements"]),
            }
        )


def save_round(store: ArtifactStore, config: ReadaptConfig, finished: Round) -> ArtifactRef:
    """Publish a round and return its reference."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(finished.to_json(), indent=2, ensure_ascii=False), encoding="utf-8")
        return {"name": finished.name, "number": finished.number, "decision": finished.decision}

    return store.produce(_key(config, finished), write)


def load_rounds(store: ArtifactStore, name: str) -> list[Round]:
    """Return the rounds of a series, oldest first."""
    refs = [ref for ref in store.list(_KIND) if recorded_name(ref) == name]
    return [Round.from_json(read_object(ref, _FILE)) for ref in refs]


def refused_corpora(rounds: Sequence[Round]) -> list[str]:
    """Return the corpora whose candidate was refused or declined, unless a later round learned them."""
    names: list[str] = []
    for finished in rounds:
        if finished.decision in ("refused", "declined"):
            names += finished.new
        elif finished.decision == "promoted":
            names = [name for name in names if name not in finished.new]
    return names


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


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
