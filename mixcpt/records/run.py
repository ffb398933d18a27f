"""Reader and writer of the record of a finished run: its settings, artifacts and evaluations."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mixcpt.config import AdaptConfig, read_stored
from mixcpt.errors import ConfigError
from mixcpt.store.artifacts import RECORD, ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.fields import read_object
from mixcpt.store.fingerprint import canonical_json, fingerprint
from mixcpt.store.models import ModelRef

_KIND = "run"
_VERSION = 1
_FILE = "run.json"


@dataclass(frozen=True)
class TrackingRef:
    """Identity of a run in MLflow; all fields are empty if tracking was unavailable."""

    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    model_version: str = ""
    """Version of the final model in the registry."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Settings, artifacts and evaluations of a finished run."""

    config: AdaptConfig
    base: ModelRef
    refs: dict[str, ArtifactRef]
    """Artifacts by role (`corpus`, `mixture`, `teacher`, `pretrained`, `selection`, `sft`, `dpo`); a skipped stage is
    absent."""
    final: str
    """Role of the final model in `refs`."""
    evaluations: dict[str, ArtifactRef]
    """Evaluations by model: `base`, `open-book` (the base with the documents in its prompts), `pretrained`, `final`."""
    tracking: TrackingRef = field(default_factory=TrackingRef)
    """Identity of the run in MLflow."""

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
            config=read_stored(AdaptConfig, data["config"]),
            base=ModelRef.from_json(data["base"]),
            refs={role: ArtifactRef.from_json(ref) for role, ref in data["refs"].items()},
            final=data["final"],
            evaluations={role: ArtifactRef.from_json(ref) for role, ref in data["evaluations"].items()},
            tracking=TrackingRef(**data["tracking"]),
        )


def deciding_settings(config: AdaptConfig) -> dict[str, Any]:
    """Return the settings that can change a result: all except paths, addresses and processes."""
    return {key: value for key, value in config.identity().items() if key != "runtime"}


def run_identity(config: AdaptConfig, base: ModelRef, corpus: str) -> str:
    """Return the fingerprint of a run, which is known before the run starts.

    Args:
        config: Settings of the run.
        base: Base model.
        corpus: Fingerprint of the corpus, which covers the content of the sources.
    """
    return fingerprint({"settings": deciding_settings(config), "base": base.digest, "corpus": corpus})


def save_run(store: ArtifactStore, result: RunResult) -> ArtifactRef:
    """Publish the record of a run and return its reference; equal settings and artifacts are the same record."""

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_text(json.dumps(result.to_json(), indent=2))
        return {"name": result.name, "final": result.final}

    return store.produce(_key(result), write)


def find_record(store: ArtifactStore, result: RunResult) -> ArtifactRef | None:
    """Return the published record of this run, or None; its identity in MLflow is ignored."""
    key = _key(result)
    return store.find(key.kind, key.fingerprint)


def has_record_of(store: ArtifactStore, config: AdaptConfig) -> bool:
    """Return whether the store has the record of a run with these settings, on whatever sources and base model."""
    settings = json.loads(canonical_json(deciding_settings(config)))
    paths = (store.root / _KIND).glob(f"*/{RECORD}")
    return any(json.loads(path.read_text())["settings"] == settings for path in paths)


def load_run(ref: ArtifactRef) -> RunResult:
    """Return the run of a published record."""
    return RunResult.from_json(read_object(ref, _FILE))


def recorded_name(ref: ArtifactRef) -> str:
    """Return the name under which a run, a comparison or a round is recorded."""
    return str(ref.record["metrics"]["name"])


def find_run(store: ArtifactStore, name: str) -> RunResult:
    """Return the newest run with this name, else the newest whose fingerprint starts with it.

    Raises:
        ConfigError: If there is none. The error lists the names of the store's runs.
    """
    refs = store.list(_KIND)
    named = [ref for ref in refs if recorded_name(ref) == name]
    if matches := named or [ref for ref in refs if ref.fingerprint.startswith(name)]:
        return load_run(matches[-1])
    known = ", ".join(sorted({recorded_name(ref) for ref in refs})) or "none yet"
    raise ConfigError(f"the store {store.root} has no run {name!r}; its runs: {known}", "create one with `mixcpt run`")


def find_maker(store: ArtifactStore, digest: str) -> RunResult:
    """Return the newest run whose final model has this digest.

    Raises:
        ConfigError: If there is none.
    """
    newest_first = (load_run(ref) for ref in reversed(store.list(_KIND)))
    if run := next((run for run in newest_first if run.refs[run.final].digest == digest), None):
        return run
    raise ConfigError(
        f"no run of the store {store.root} trained the model {digest[:12]}",
        "set runtime.store to the store in which it was trained",
    )


def _key(result: RunResult) -> StageKey:
    inputs = {"base": result.base.digest}
    inputs |= {role: ref.digest for role, ref in result.refs.items()}
    inputs |= {f"evaluation-{role}": ref.digest for role, ref in result.evaluations.items()}
    return StageKey(kind=_KIND, version=_VERSION, settings=deciding_settings(result.config), inputs=inputs)
