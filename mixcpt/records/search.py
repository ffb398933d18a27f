"""Reader and writer of the record of a finished search for settings: its attempts and their confirmation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.config import AdviseConfig, read_stored
from mixcpt.records.comparison import Comparison
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

_KIND = "advice"
_VERSION = 1
_FILE = "advice.json"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Scores of one training of the search, on the selection split."""

    point: Mapping[str, float]
    """Searched settings by name."""
    domain: float
    """Score on the headline task of the domain."""
    general: float
    """Score on the headline task of prior knowledge."""
    score: float
    """Score that decides the choice: see `mixcpt.evaluate.statistics.outcomes.selection_score`."""


@dataclass(frozen=True)
class Advice:
    """Attempts of a search, and a comparison of the best one with the original settings."""

    config: AdviseConfig
    attempts: tuple[Attempt, ...]
    """Attempts in the order of the search."""
    confirmation: Comparison
    """Comparison of the best attempt with the original settings, on the report split."""

    @property
    def best(self) -> Attempt:
        """The attempt with the highest score; the first of equal ones."""
        return max(self.attempts, key=lambda attempt: attempt.score)

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "attempts": [vars(attempt) for attempt in self.attempts],
            "confirmation": self.confirmation.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Advice":
        return cls(
            read_stored(AdviseConfig, data["config"]),
            tuple(Attempt(**attempt) for attempt in data["attempts"]),
            Comparison.from_json(data["confirmation"]),
        )


def save_advice(store: ArtifactStore, advice: Advice) -> ArtifactRef:
    """Publish a search and return its reference; equal settings, attempts and evaluations are the same search."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(advice.to_json(), indent=2))
        return {"name": advice.config.name}

    settings = {
        "config": advice.config.identity(),
        "attempts": [vars(attempt) for attempt in advice.attempts],
    }
    inputs = {}
    for result in advice.confirmation.results:
        for run in result.runs:
            inputs[f"{result.contender}/{run.config.seed}"] = run.evaluations["final"].digest
    return store.produce(StageKey(kind=_KIND, version=_VERSION, settings=settings, inputs=inputs), write)
