"""Calls of stages as plain data: the flow process writes them, and a worker process runs them and reports events."""

import fcntl
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from mixcpt.config import Sharding
from mixcpt.errors import BY_NAME, MixcptError
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import complete_lines

LOCK = "lock"
"""File in the folder of a batch that is locked while a process works on the batch."""
LOG = "log.txt"
"""File in the folder of a batch with the output of its worker."""


@dataclass(frozen=True)
class Output:
    """Placeholder for the artifact that an earlier job of the same batch will publish."""

    job: str
    as_model: bool = False


Input: TypeAlias = ArtifactRef | ModelRef | Output
Ref = TypeVar("Ref", ArtifactRef, ModelRef)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Arguments of some stages that are not settings; a stage ignores the options of other stages."""

    form: Literal["plain", "chat"] = "plain"
    """Prompt form of an evaluation."""
    with_documents: bool = False
    """Whether the prompts of an evaluation contain the documents of the questions."""
    chat_template: str = ""
    """Chat template of format alignment, as in `BaseModelConfig`."""
    sharding: Sharding = "none"
    """Distribution of the parameters of a training over several devices."""
    attempt: str = ""
    """Name of a smoke test; each name is a new test, never read from the store."""
    reporters: tuple[str, ...] = ()
    """Tools that show a training in addition to MLflow."""
    run: str = ""
    """Name of the run in these tools."""

    def to_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        default = JobOptions()
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "JobOptions":
        """Return options from `to_json`, or from a batch that an earlier version wrote."""
        known = dict(data)
        if known.pop("documents", ""):
            known["with_documents"] = True
        known["reporters"] = tuple(known.get("reporters", ()))
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a stage."""

    name: str
    """Name that is unique in its batch: `sft`, `evaluate-base`."""
    stage: str
    """Name of a stage of the registry."""
    config: dict[str, Any]
    """Settings of the stage, as JSON."""
    seed: int
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """Inputs by role."""
    options: JobOptions = JobOptions()

    def resolve(self, results: Mapping[str, ArtifactRef]) -> "Job":
        """Return the job with the results that exist in place of their placeholders."""
        return replace(self, inputs={role: _resolve(value, results) for role, value in self.inputs.items()})

    def artifact(self, role: str) -> ArtifactRef:
        """Return the input of this role, which must be an artifact."""
        return self._input(role, ArtifactRef)

    def model(self, role: str) -> ModelRef:
        """Return the input of this role, which must be a model."""
        return self._input(role, ModelRef)

    def _input(self, role: str, kind: type[Ref]) -> Ref:
        value = self.inputs[role]
        if not isinstance(value, kind):
            raise TypeError(f"job {self.name}: input {role} must be of type {kind.__name__}, not {value}")
        return value

    def to_json(self) -> dict[str, Any]:
        inputs = {role: _input_to_json(value) for role, value in self.inputs.items()}
        return vars(self) | {"inputs": inputs, "options": self.options.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Job":
        inputs = {role: _input_from_json(value) for role, value in data["inputs"].items()}
        return cls(**{**data, "inputs": inputs, "options": JobOptions.from_json(data["options"])})


@dataclass(frozen=True)
class Batch:
    """Jobs that share one worker process, so that torch is imported once for all of them."""

    jobs: tuple[Job, ...]
    store: str
    folder: str
    """Folder of the batch file, its events and its log."""

    @classmethod
    def in_store(cls, jobs: tuple[Job, ...], store: Path) -> "Batch":
        """Create a folder in the work area of a store and return the batch of these jobs in it."""
        parent = store / "work" / "batches"
        parent.mkdir(parents=True, exist_ok=True)
        started = datetime.now().strftime("%Y%m%d-%H%M%S")
        return cls(jobs, str(store), tempfile.mkdtemp(prefix=f"{started}-{jobs[0].name}-", dir=parent))

    @property
    def path(self) -> Path:
        return Path(self.folder) / "job.json"

    @property
    def events(self) -> Path:
        return Path(self.folder) / "events.jsonl"

    @property
    def log(self) -> Path:
        return Path(self.folder) / LOG

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the lock of the batch; the kernel releases it if this process dies."""
        with (Path(self.folder) / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write(self) -> None:
        """Write the batch for a worker process to read."""
        data = {"jobs": [job.to_json() for job in self.jobs], "store": self.store, "folder": self.folder}
        self.path.write_text(json.dumps(data, indent=2))

    @classmethod
    def read(cls, path: Path) -> "Batch":
        data = json.loads(path.read_text())
        return cls(tuple(Job.from_json(job) for job in data["jobs"]), data["store"], data["folder"])


@dataclass(frozen=True)
class Started:
    """A job that is not in the store started to compute."""

    job: str
    kind: str
    fingerprint: str
    spool: str
    """Path of the file with its measurements."""


@dataclass(frozen=True)
class Finished:
    """A job published its artifact, or found it in the store."""

    job: str
    ref: ArtifactRef


@dataclass(frozen=True)
class Failed:
    """A job ended with an error, described so that the parent process can raise it again."""

    job: str
    error: str
    """Name of a class in `mixcpt.errors`."""
    problem: str
    hint: str

    def to_error(self) -> MixcptError:
        return BY_NAME[self.error](self.problem, self.hint)


Event: TypeAlias = Started | Finished | Failed


def append_event(path: Path, event: Event) -> None:
    """Append an event to a file as one line of JSON."""
    data = dict(vars(event))
    if isinstance(event, Finished):
        data["ref"] = {**event.ref.to_json(), "reused": event.ref.reused}
    with path.open("a") as stream:
        stream.write(json.dumps({"event": type(event).__name__, **data}) + "\n")


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events whose lines are complete after byte `offset`, and the offset of the next read."""
    lines, offset = complete_lines(path, offset)
    return [_parse_event(json.loads(line)) for line in lines.splitlines()], offset


def _parse_event(data: dict[str, Any]) -> Event:
    kind = data.pop("event")
    if kind == "Finished":
        reused = data["ref"].pop("reused")
        return Finished(data["job"], ArtifactRef(**data["ref"], reused=reused))
    return Started(**data) if kind == "Started" else Failed(**data)


def _resolve(value: Input, results: Mapping[str, ArtifactRef]) -> Input:
    if not isinstance(value, Output) or value.job not in results:
        return value
    ref = results[value.job]
    return ModelRef.from_artifact(ref, value.job) if value.as_model else ref


def _input_to_json(value: Input) -> dict[str, Any]:
    if isinstance(value, Output):
        return {"output": vars(value)}
    return {"artifact" if isinstance(value, ArtifactRef) else "model": value.to_json()}


def _input_from_json(data: Mapping[str, Any]) -> Input:
    ((kind, value),) = data.items()
    if kind == "output":
        return Output(**value)
    return ArtifactRef.from_json(value) if kind == "artifact" else ModelRef.from_json(value)
