"""The record of a finished adaptation: what it was told, what it made, where that lies."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mixcpt.config import AdaptConfig
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.fingerprint import fingerprint
from mixcpt.store.models import ModelRef

_KIND = "run"
_VERSION = 1
_FILE = "run.json"


@dataclass(frozen=True)
class TrackingRef:
    """Where MLflow keeps the run; empty where tracking was away."""

    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    model_version: str = ""


@dataclass(frozen=True)
class RunResult:
    """Everything that an adaptation made, by role."""

    config: AdaptConfig
    base: ModelRef
    refs: dict[str, ArtifactRef]
    """`corpus`, `mixture`, `teacher`, `pretrained`, `selection`, `sft`, `dpo`; a skipped stage is absent."""
    final: str
    """The role in `refs` of the final model."""
    evaluations: dict[str, ArtifactRef]
    """Of the models `base`, `open-book` (with the documents at hand), `pretrained` and `final`."""
    tracking: TrackingRef = field(default_factory=TrackingRef)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def final_model(self) -> ModelRef:
        return ModelRef.from_artifact(self.refs[self.final], self.name)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "config": self.config.model_dump(mode="json"),
            "base": self.base.to_json(),
            "refs": {role: ref.to_json() for role, ref in self.refs.items()},
            "final": self.final,
            "evaluations": {role: ref.to_json() for role, ref in self.evaluations.items()},
            "tracking": asdict(self.tracking),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RunResult":
        return cls(
            AdaptConfig.model_validate(data["config"]),
            ModelRef.from_json(data["base"]),
            {role: ArtifactRef.from_json(ref) for role, ref in data["refs"].items()},
            data["final"],
            {role: ArtifactRef.from_json(ref) for role, ref in data["evaluations"].items()},
            TrackingRef(**data["tracking"]),
        )


def deciding_settings(config: AdaptConfig) -> dict[str, Any]:
    """Returns the settings that can change a result: all but places and processes."""
    return config.model_dump(mode="json", exclude={"runtime"})


def run_identity(config: AdaptConfig, base: ModelRef, corpus: str) -> str:
    """Returns the fingerprint of what a run is to do, known before it starts.

    Args:
        config: Its settings.
        base: Its base model.
        corpus: Fingerprint of the corpus, which stands for the content of the sources.
    """
    return fingerprint({"settings": deciding_settings(config), "base": base.digest, "corpus": corpus})


def save_run(store: ArtifactStore, result: RunResult) -> ArtifactRef:
    """Returns the published record of a run; the same settings on the same artifacts are the same run."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(result.to_json(), indent=2))
        return {"name": result.name, "final": result.final}

    return store.produce(_key(result), write)


def find_record(store: ArtifactStore, result: RunResult) -> ArtifactRef | None:
    """Returns the published record of this run, where there is one; what tracking says makes no difference."""
    key = _key(result)
    return store.find(key.kind, key.fingerprint)


def load_run(ref: ArtifactRef) -> RunResult:
    """Returns the run of a published record."""
    return RunResult.from_json(json.loads(ref.file(_FILE).read_text()))


def find_run(store: ArtifactStore, name: str) -> RunResult:
    """Returns the newest run of that name, or the one whose fingerprint starts with it.

    Raises:
        ConfigError: If there is none; it lists those that are there.
    """
    runs = store.list(_KIND)
    named = [ref for ref in runs if ref.record["metrics"]["name"] == name]
    if found := named or [ref for ref in runs if ref.fingerprint.startswith(name)]:
        return load_run(found[-1])
    known = ", ".join(sorted({ref.record["metrics"]["name"] for ref in runs})) or "none yet"
    raise ConfigError(f"the store {store.root} has no run {name!r}; it has: {known}", "`mixcpt run` makes one")


def find_maker(store: ArtifactStore, digest: str) -> RunResult:
    """Returns the newest run whose final model has this digest.

    Raises:
        ConfigError: If no run of the store made it.
    """
    made = (load_run(ref) for ref in reversed(store.list(_KIND)))
    if found := next((run for run in made if run.refs[run.final].digest == digest), None):
        return found
    raise ConfigError(
        f"no run of the store {store.root} made the model {digest[:12]}",
        "name the store in which it was trained (runtime.store)",
    )


def _key(result: RunResult) -> StageKey:
    inputs = {"base": result.base.digest}
    inputs |= {role: ref.digest for role, ref in result.refs.items()}
    inputs |= {f"evaluation-{role}": ref.digest for role, ref in result.evaluations.items()}
    return StageKey(_KIND, _VERSION, deciding_settings(result.config), inputs)
