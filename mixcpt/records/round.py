"""What became of a round, for the rounds after it and for whoever asks later."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixcpt.config import ReadaptConfig
from mixcpt.records.run import RunResult
from mixcpt.rounds.gates import Judgement
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey

_KIND = "round"
_VERSION = 1
_FILE = "round.json"

Decision = Literal["promoted", "refused", "declined", "unanswered"]
"""By the gates: promoted or refused. By a human: promoted, declined, or nobody answered in time."""


@dataclass(frozen=True)
class Round:
    """A round that has ended."""

    number: int
    name: str
    new: tuple[str, ...]
    earlier: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    """Names of the tasks about each corpus; under the empty name those about none."""
    run: RunResult
    evaluations: Mapping[str, ArtifactRef]
    """Of the models `base`, `champion` (the one before) and `candidate`."""
    judgements: tuple[Judgement, ...]
    decision: Decision
    reason: str
    version: str = ""
    """Of the candidate in MLflow's registry."""
    decided_by: str = ""
    """Who answered, where somebody did."""

    def to_json(self) -> dict[str, Any]:
        refs = {role: ref.to_json() for role, ref in self.evaluations.items()}
        judged = [each.to_json() for each in self.judgements]
        plain = {name: value for name, value in vars(self).items() if name not in ("run", "evaluations", "judgements")}
        return plain | {"run": self.run.to_json(), "evaluations": refs, "judgements": judged}

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
                "judgements": tuple(Judgement.from_json(each) for each in data["judgements"]),
            }
        )


def save_round(store: ArtifactStore, config: ReadaptConfig, made: Round) -> ArtifactRef:
    """Returns the published record of a round."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(made.to_json(), indent=2, ensure_ascii=False), encoding="utf-8")
        return {"name": made.name, "number": made.number, "decision": made.decision}

    return store.produce(_key(config, made), write)


def rounds(store: ArtifactStore, name: str) -> list[Round]:
    """Returns the rounds of that name, oldest first."""
    found = [ref for ref in store.list(_KIND) if ref.record["metrics"]["name"] == name]
    return [Round.from_json(json.loads(ref.file(_FILE).read_text(encoding="utf-8"))) for ref in found]


def refused(made: list[Round]) -> list[str]:
    """Returns the corpora whose candidate was refused or declined, and that no later round has learned."""
    names: list[str] = []
    for each in made:
        if each.decision in ("refused", "declined"):
            names += each.new
        else:
            names = [name for name in names if name not in each.new or each.decision != "promoted"]
    return names


def _key(config: ReadaptConfig, made: Round) -> StageKey:
    inputs = {"model": made.run.refs[made.run.final].digest}
    inputs |= {f"evaluation-{role}": ref.digest for role, ref in made.evaluations.items()}
    decided = {"decision": made.decision, "reason": made.reason, "version": made.version, "by": made.decided_by}
    gates = [gate.model_dump(mode="json") for gate in config.gates]
    return StageKey(_KIND, _VERSION, {"name": made.name, "number": made.number, "gates": gates, **decided}, inputs)
