"""Records of finished runs, and the JSON files of all records; imports neither torch nor transformers."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError, model_serializer

from mixcpt.config import AdaptConfig, RuntimeConfig, read_stored
from mixcpt.errors import ConfigError
from mixcpt.stages.chain import RunJobs, final_role, run_chain
from mixcpt.stages.jobs import Job
from mixcpt.stages.registry import split_finished
from mixcpt.store.artifacts import RECORD, ArtifactRef, ArtifactStore, StageKey, read_object
from mixcpt.store.fingerprint import canonical_json, fingerprint
from mixcpt.store.models import ModelRef, resolve_model

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the address of an MLflow server."""
Record = TypeVar("Record", bound="JsonRecord")
_KIND = "run"
_VERSION = 1
_adapter: Callable[[type], TypeAdapter[Any]] = cache(TypeAdapter)


class JsonRecord:
    """A dataclass that is converted to JSON values and back by the types of its fields."""

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls: type[Record], data: Mapping[str, Any]) -> Record:
        return _adapter(cls).validate_python(data)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TrackingRef:
    """Identity of a run in MLflow; all fields are empty if tracking was unavailable."""

    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    model_version: str = ""
    """Version of the final model in the registry."""


@dataclass(frozen=True, kw_only=True)
class RunResult(JsonRecord):
    """Settings, artifacts and evaluations of a finished run."""

    config: Annotated[AdaptConfig, BeforeValidator(partial(read_stored, AdaptConfig))]
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

    @model_serializer(mode="wrap")
    def _with_name(self, fields: Callable[["RunResult"], dict[str, Any]]) -> dict[str, Any]:
        return {"name": self.name, **fields(self)}


@dataclass(frozen=True)
class Adapting:
    """Settings and base model, from which the jobs of a run follow."""

    config: AdaptConfig
    base: ModelRef


class _NotStored(Exception):
    """A stage of the run is not in the store."""


def deciding_settings(config: AdaptConfig) -> dict[str, Any]:
    """Return the settings that can change a result: all except paths, addresses and processes."""
    return {key: value for key, value in config.identity().items() if key != "runtime"}


def run_identity(config: AdaptConfig, base: ModelRef, corpus: str) -> str:
    """Return the fingerprint of a run, which is known before the run starts.

    `corpus` is the fingerprint of the corpus, which covers the content of the sources.
    """
    return fingerprint({"settings": deciding_settings(config), "base": base.digest, "corpus": corpus})


def save_run(store: ArtifactStore, result: RunResult) -> ArtifactRef:
    """Publish the record of a run and return its reference; equal settings and artifacts are the same record."""
    return publish_json(store, _key(result), result.to_json(), {"name": result.name, "final": result.final})


def publish_json(
    store: ArtifactStore, key: StageKey, data: Mapping[str, Any], metrics: Mapping[str, Any]
) -> ArtifactRef:
    """Publish a record with its JSON values in one file, which `load_json` reads, and return its reference."""

    def write(folder: Path) -> Mapping[str, Any]:
        (folder / f"{key.kind}.json").write_text(json.dumps(data, indent=2))
        return metrics

    return store.produce(key, write)


def load_json(ref: ArtifactRef) -> dict[str, Any]:
    """Return the JSON values of a published record."""
    return read_object(ref, f"{ref.kind}.json")


def load_run(ref: ArtifactRef) -> RunResult:
    """Return the run of a published record."""
    return RunResult.from_json(load_json(ref))


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
    """Return the newest run whose final model has this digest; skip runs with settings that are no longer supported.

    Raises:
        ConfigError: If there is none.
    """
    for ref in reversed(store.list(_KIND)):
        with suppress(ConfigError, ValidationError):  # this version refuses the settings of the run
            run = load_run(ref)
            if run.refs[run.final].digest == digest:
                return run
    raise ConfigError(
        f"no run of the store {store.root} trained the model {digest[:12]}",
        "set runtime.store to the store in which it was trained",
    )


def tracking_uri(runtime: RuntimeConfig) -> str:
    """Return the address of MLflow: `MLFLOW_TRACKING_URI` if it is set, else a database in the artifact store."""
    store = Path(runtime.store).expanduser().resolve()
    return os.environ.get(TRACKING_URI, "") or f"sqlite:///{store / 'mlflow.db'}"


def run_to_result(adapting: Adapting, run: RunJobs) -> RunResult:
    """Run all jobs of an adaptation in order and return its result, which MLflow does not have."""
    chain = run_chain(adapting, run)
    refs, final = chain.refs, final_role(chain.refs)
    return RunResult(config=adapting.config, base=adapting.base, refs=refs, final=final, evaluations=chain.evaluations)


def find_stored_run(config: AdaptConfig, base: ModelRef | None = None) -> RunResult | None:
    """Return the recorded run of these settings if the store has all its stages and MLflow has it.

    Each stage is looked up once. `base` is the base model, if it is already resolved.

    Raises:
        MixcptError: If the base model or a source cannot be read.
    """
    store = ArtifactStore(config.runtime.store)
    if not _has_record_of(store, config):  # no need to read the sources
        return None

    def find(jobs: Sequence[Job]) -> dict[str, ArtifactRef]:
        results, missing = split_finished(jobs, store)
        if missing:
            raise _NotStored
        return results

    adapting = Adapting(config, base or resolve_model(config.base))
    try:
        result = run_to_result(adapting, find)
    except _NotStored:
        return None
    record = store.find(_KIND, _key(result).fingerprint)
    tracking = load_run(record).tracking if record else TrackingRef()
    return replace(result, tracking=tracking) if _is_tracked(tracking, config.runtime) else None


def _has_record_of(store: ArtifactStore, config: AdaptConfig) -> bool:
    """Return whether the store has the record of a run with these settings, on whatever sources and base model."""
    settings = json.loads(canonical_json(deciding_settings(config)))
    paths = (store.root / _KIND).glob(f"*/{RECORD}")
    return any(json.loads(path.read_text())["settings"] == settings for path in paths)


def _is_tracked(tracking: TrackingRef, runtime: RuntimeConfig) -> bool:
    uri = tracking_uri(runtime)
    database = uri.removeprefix("sqlite:///")
    has_database = database == uri or Path(database).is_file()
    return tracking.uri == uri and bool(tracking.run_id) and has_database


def _key(result: RunResult) -> StageKey:
    inputs = {"base": result.base.digest}
    inputs |= {role: ref.digest for role, ref in result.refs.items()}
    inputs |= {f"evaluation-{role}": ref.digest for role, ref in result.evaluations.items()}
    return StageKey(kind=_KIND, version=_VERSION, settings=deciding_settings(result.config), inputs=inputs)
