"""The record of a finished comparison: what was tried, what was chosen, what came of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.config import CompareConfig
from mixcpt.errors import ConfigError
from mixcpt.records.run import RunResult
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

_KIND = "comparison"
_VERSION = 1
_FILE = "comparison.json"


@dataclass(frozen=True)
class Tried:
    """One value of the searched setting, on the selection split."""

    contender: str
    value: float
    domain: float
    """Of the headline task that stands for what was learned."""
    general: float
    """Of the one that stands for what was kept."""
    score: float
    """What the choice was made by: see `mixcpt.evaluate.statistics.selection_score`."""


@dataclass(frozen=True)
class Result:
    """A contender at its chosen value, trained with every seed and asked the report split."""

    contender: str
    value: float
    runs: tuple[RunResult, ...]
    """In the order of the seeds."""


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison made."""

    config: CompareConfig
    tried: tuple[Tried, ...]
    results: tuple[Result, ...]
    """In the order of the contenders; the first is what the others are measured against."""
    run_id: str = ""
    """The parent run in MLflow; empty where tracking was away."""

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "tried": [vars(tried) for tried in self.tried],
            "results": [
                {"contender": r.contender, "value": r.value, "runs": [run.to_json() for run in r.runs]}
                for r in self.results
            ],
            "run_id": self.run_id,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        results = (
            Result(r["contender"], r["value"], tuple(RunResult.from_json(run) for run in r["runs"]))
            for r in data["results"]
        )
        return cls(
            CompareConfig.model_validate(data["config"]),
            tuple(Tried(**tried) for tried in data["tried"]),
            tuple(results),
            data["run_id"],
        )


def save_comparison(store: ArtifactStore, comparison: Comparison) -> ArtifactRef:
    """Returns the published record; the same settings on the same runs are the same comparison."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(comparison.to_json(), indent=2))
        return {"name": comparison.config.name}

    settings = comparison.config.model_dump(mode="json", exclude={"jobs"})
    return store.produce(StageKey(_KIND, _VERSION, settings, _inputs(comparison.results)), write)


def find_comparison(store: ArtifactStore, name: str) -> Comparison:
    """Returns the newest comparison of that name.

    Raises:
        ConfigError: If there is none; it lists those that are there.
    """
    known = store.list(_KIND)
    if found := [ref for ref in known if ref.record["metrics"]["name"] == name]:
        return Comparison.from_json(json.loads(found[-1].file(_FILE).read_text()))
    names = ", ".join(sorted({ref.record["metrics"]["name"] for ref in known})) or "none yet"
    raise ConfigError(
        f"the store {store.root} has no comparison {name!r}; it has: {names}", "`mixcpt compare` makes one"
    )


def _inputs(results: Sequence[Result]) -> dict[str, str]:
    return {
        f"{result.contender}/{run.config.seed}/{role}": ref.digest
        for result in results
        for run in result.runs
        for role, ref in run.evaluations.items()
    }
