"""A stage call as plain data: what the flow process writes for a worker process, and what that process reports back."""

import fcntl
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mixcpt.errors import BY_NAME, MixcptError
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

StageName = Literal["curate", "plan", "mix", "cache", "probe", "pretrain", "select", "sft", "dpo", "evaluate", "smoke"]

LOCK = "lock"
"""File in the folder of a batch, locked while a process works on it."""
_WITHOUT_GPU: tuple[StageName, ...] = ("curate", "plan", "mix")


@dataclass(frozen=True)
class Output:
    """Stands for what an earlier job of the same batch will publish."""

    job: str
    as_model: bool = False


Input: TypeAlias = ArtifactRef | ModelRef | Output


@dataclass(frozen=True)
class Job:
    """One call of a stage function."""

    name: str
    """Unique in its batch: `sft`, `evaluate-base`."""
    stage: StageName
    config: dict[str, Any]
    """The stage's piece of the settings, as JSON."""
    seed: int
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """By role, as the stage function calls them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """`chat_template` or `form`, where the stage has one."""

    def resolve(self, results: Mapping[str, ArtifactRef]) -> "Job":
        """Returns the job with the results that are there already in the places that stood for them."""
        return Job(
            self.name,
            self.stage,
            self.config,
            self.seed,
            {role: _resolve(value, results) for role, value in self.inputs.items()},
            self.options,
        )

    def artifact(self, role: str) -> ArtifactRef:
        value = self.inputs[role]
        if not isinstance(value, ArtifactRef):
            raise TypeError(f"job {self.name}: input {role} is no artifact but {value}")
        return value

    def model(self, role: str) -> ModelRef:
        value = self.inputs[role]
        if not isinstance(value, ModelRef):
            raise TypeError(f"job {self.name}: input {role} is no model but {value}")
        return value

    @property
    def takes_gpu(self) -> bool:
        """Whether the stage computes on a GPU where there is one."""
        return self.stage not in _WITHOUT_GPU

    @property
    def input_digests(self) -> dict[str, str]:
        """The digest of each input that is known already, by role."""
        return {role: value.digest for role, value in self.inputs.items() if not isinstance(value, Output)}

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "stage": self.stage,
            "config": self.config,
            "seed": self.seed,
            "inputs": {role: _input_to_json(value) for role, value in self.inputs.items()},
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Job":
        inputs = {role: _input_from_json(value) for role, value in data["inputs"].items()}
        return cls(data["name"], data["stage"], data["config"], data["seed"], inputs, data["options"])


@dataclass(frozen=True)
class Batch:
    """Jobs that share one worker process, and with it the seconds that importing torch takes."""

    jobs: tuple[Job, ...]
    store: str
    folder: str
    """Where the batch lies with its events and its log."""

    @classmethod
    def in_store(cls, jobs: tuple[Job, ...], store: Path) -> "Batch":
        """Returns the batch with a new folder of its own in the work area of a store."""
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
        return Path(self.folder) / "log.txt"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Holds a lock that says that somebody works on the batch; the kernel frees it where that process dies."""
        with (Path(self.folder) / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write(self) -> None:
        """Writes the batch for a worker to read."""
        data = {"jobs": [job.to_json() for job in self.jobs], "store": self.store, "folder": self.folder}
        self.path.write_text(json.dumps(data, indent=2))

    @classmethod
    def read(cls, path: Path) -> "Batch":
        data = json.loads(path.read_text())
        return cls(tuple(Job.from_json(job) for job in data["jobs"]), data["store"], data["folder"])


@dataclass(frozen=True)
class Started:
    """A job found nothing in the store and computes."""

    job: str
    kind: str
    fingerprint: str
    spool: str
    """File to which it writes its measurements."""


@dataclass(frozen=True)
class Finished:
    """A job has its artifact."""

    job: str
    ref: ArtifactRef


@dataclass(frozen=True)
class Failed:
    """A job ended in an error that a parent process can raise again."""

    job: str
    error: str
    """Name of a class of `mixcpt.errors`."""
    problem: str
    hint: str

    def to_error(self) -> MixcptError:
        return BY_NAME[self.error](self.problem, self.hint)


Event: TypeAlias = Started | Finished | Failed


def append_event(path: Path, event: Event) -> None:
    """Appends an event as one line of JSON."""
    data = dict(vars(event))
    if isinstance(event, Finished):
        data["ref"] = {**event.ref.to_json(), "reused": event.ref.reused}
    with path.open("a") as stream:
        stream.write(json.dumps({"event": type(event).__name__, **data}) + "\n")


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Returns the events whose lines are complete after byte `offset`, and the offset to go on from."""
    if not path.exists():
        return [], offset
    data = path.read_bytes()[offset:]
    whole = data[: data.rfind(b"\n") + 1]
    return [_parse_event(json.loads(line)) for line in whole.splitlines()], offset + len(whole)


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
