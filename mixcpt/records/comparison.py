"""Records of finished comparisons and of finished searches for settings, which end with a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import BeforeValidator

from mixcpt.config import AdviseConfig, CompareConfig, read_stored
from mixcpt.records.run import JsonRecord, RunResult, load_json, publish_json
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TriedValue:
    """Scores of one value of the searched setting, on the selection split."""

    contender: str
    value: float
    """Value of the searched setting."""
    domain: float
    """Score on the headline task of the domain."""
    general: float | None
    """Score on the headline task of prior knowledge; None if no task is general."""
    score: float
    """Score that decides the choice: see `mixcpt.evaluate.statistics.outcomes.selection_score`."""


@dataclass(frozen=True)
class ContenderResult:
    """Runs of a contender with its chosen value, one per seed, evaluated on the report split."""

    contender: str
    value: float
    """Chosen value of the searched setting."""
    runs: tuple[RunResult, ...]


@dataclass(frozen=True)
class Comparison(JsonRecord):
    """Settings and results of a finished comparison."""

    config: Annotated[CompareConfig, BeforeValidator(partial(read_stored, CompareConfig))]
    tried: tuple[TriedValue, ...]
    """Searched values with their scores; empty if nothing was searched."""
    results: tuple[ContenderResult, ...]
    """Results in the order of the contenders; all others are compared with the first."""
    run_id: str = ""
    """Identifier of the parent run in MLflow; empty if tracking was unavailable."""

    @property
    def runs(self) -> dict[str, RunResult]:
        """Runs by contender and seed, as `contender/seed`."""
        runs = {}
        for result in self.results:
            runs.update({f"{result.contender}/{run.config.seed}": run for run in result.runs})
        return runs


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Scores of one training of the search, on the selection split."""

    point: Mapping[str, float]
    """Searched settings by name."""
    domain: float
    """Score on the headline task of the domain."""
    general: float | None
    """Score on the headline task of prior knowledge; None if no task is general."""
    score: float
    """Score that decides the choice: see `mixcpt.evaluate.statistics.outcomes.selection_score`."""


@dataclass(frozen=True)
class Advice(JsonRecord):
    """Attempts of a search, and a comparison of the best one with the original settings."""

    config: Annotated[AdviseConfig, BeforeValidator(partial(read_stored, AdviseConfig))]
    attempts: tuple[Attempt, ...]
    """Attempts in the order of the search."""
    confirmation: Comparison
    """Comparison of the best attempt with the original settings, on the report split."""

    @property
    def best(self) -> Attempt:
        """The attempt with the highest score; the first of equal ones."""
        return max(self.attempts, key=lambda attempt: attempt.score)


def save_comparison(store: ArtifactStore, comparison: Comparison) -> ArtifactRef:
    """Publish a comparison and return its reference; equal settings and evaluations are the same comparison."""
    settings = {key: value for key, value in comparison.config.identity().items() if key != "jobs"}
    inputs = {}
    for name, run in comparison.runs.items():
        inputs.update({f"{name}/{role}": ref.digest for role, ref in run.evaluations.items()})
    key = StageKey(kind="comparison", version=_VERSION, settings=settings, inputs=inputs)
    return publish_json(store, key, comparison.to_json(), {"name": comparison.config.name})


def load_comparison(ref: ArtifactRef) -> Comparison:
    """Return the comparison of a published record."""
    return Comparison.from_json(load_json(ref))


def save_advice(store: ArtifactStore, advice: Advice) -> ArtifactRef:
    """Publish a search and return its reference; equal settings, attempts and evaluations are the same search."""
    settings = {"config": advice.config.identity(), "attempts": [vars(attempt) for attempt in advice.attempts]}
    inputs = {name: run.evaluations["final"].digest for name, run in advice.confirmation.runs.items()}
    key = StageKey(kind="advice", version=_VERSION, settings=settings, inputs=inputs)
    return publish_json(store, key, advice.to_json(), {"name": advice.config.name})
