"""The record of a finished search for a mixture: what was tried, and what held."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.config import AdviseConfig
from mixcpt.records.comparison import Comparison
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

_KIND = "advice"
_VERSION = 1
_FILE = "advice.json"


@dataclass(frozen=True)
class Attempt:
    """One training of the search, on the selection split."""

    point: Mapping[str, float]
    domain: float
    """Of the headline task that stands for what was learned."""
    general: float
    """Of the one that stands for what was kept."""
    score: float
    """`mixcpt.evaluate.statistics.selection_score` says of what."""


@dataclass(frozen=True)
class Advice:
    """What was tried, in its order, and the comparison of the best with the settings that were given."""

    config: AdviseConfig
    attempts: tuple[Attempt, ...]
    confirmation: Comparison

    @property
    def best(self) -> Attempt:
        """The training with the highest score, of equal ones the first."""
        return max(self.attempts, key=lambda one: one.score)

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "attempts": [vars(one) for one in self.attempts],
            "confirmation": self.confirmation.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Advice":
        attempts: Sequence[Mapping[str, Any]] = data["attempts"]
        return cls(
            AdviseConfig.model_validate(data["config"]),
            tuple(Attempt(**one) for one in attempts),
            Comparison.from_json(data["confirmation"]),
        )


def save_advice(store: ArtifactStore, advice: Advice) -> ArtifactRef:
    """Returns the published record; the same search with the same answers is the same advice."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(advice.to_json(), indent=2))
        return {"name": advice.config.name}

    settings = {
        "config": advice.config.model_dump(mode="json"),
        "attempts": [vars(one) for one in advice.attempts],
    }
    inputs = {
        f"{result.contender}/{run.config.seed}": run.evaluations["final"].digest
        for result in advice.confirmation.results
        for run in result.runs
    }
    return store.produce(StageKey(_KIND, _VERSION, settings, inputs), write)
