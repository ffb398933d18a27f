"""Reader and writer of the record of a finished comparison: searched values, chosen values and runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.config import CompareConfig, read_stored
from mixcpt.records.run import RunResult
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.fields import read_object

_KIND = "comparison"
_VERSION = 1
_FILE = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class TriedValue:
    """Scores of one value of the searched setting, on the selection split."""

    contender: str
    value: float
    """Value of the searched setting."""
    domain: float
    """Score on the headline task of the domain."""
    general: float
    """Score on the headline task of prior knowledge."""
    score: float
    """Score that decides the choice: see `mixcpt.evaluate.statistics.outcomes.selection_score`."""


@dataclass(frozen=True)
class ContenderResult:
    """Runs of a contender with its chosen value, one per seed, evaluated on the report split."""

    contender: str
    value: float
    """Chosen value of the searched setting."""
    runs: tuple[RunResult, ...]

    def to_json(self) -> dict[str, Any]:
        return {"contender": self.contender, "value": self.value, "runs": [run.to_json() for run in self.runs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ContenderResult":
        return cls(data["contender"], data["value"], tuple(RunResult.from_json(run) for run in data["runs"]))


@dataclass(frozen=True)
class Comparison:
    """Settings and results of a finished comparison."""

    config: CompareConfig
    tried: tuple[TriedValue, ...]
    """Searched values with their scores; empty if nothing was searched."""
    results: tuple[ContenderResult, ...]
    """Results in the order of the contenders; all others are compared with the first."""
    run_id: str = ""
    """Identifier of the parent run in MLflow; empty if tracking was unavailable."""

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "tried": [vars(tried) for tried in self.tried],
            "results": [result.to_json() for result in self.results],
            "run_id": self.run_id,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        return cls(
            read_stored(CompareConfig, data["config"]),
            tuple(TriedValue(**tried) for tried in data["tried"]),
            tuple(ContenderResult.from_json(result) for result in data["results"]),
            run_id=data["run_id"],
        )


def save_comparison(store: ArtifactStore, comparison: Comparison) -> ArtifactRef:
    """Publish a comparison and return its reference; equal settings and evaluations are the same comparison."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(comparison.to_json(), indent=2))
        return {"name": comparison.config.name}

    settings = {key: value for key, value in comparison.config.identity().items() if key != "jobs"}
    inputs = _evaluation_digests(comparison.results)
    return store.produce(StageKey(kind=_KIND, version=_VERSION, settings=settings, inputs=inputs), write)


def load_comparison(ref: ArtifactRef) -> Comparison:
    """Return the comparison of a published record."""
    return Comparison.from_json(read_object(ref, _FILE))


def _evaluation_digests(results: Sequence[ContenderResult]) -> dict[str, str]:
    digests = {}
    for result in results:
        for run in result.runs:
            prefix = f"{result.contender}/{run.config.seed}"
            digests.update({f"{prefix}/{role}": ref.digest for role, ref in run.evaluations.items()})
    return digests
