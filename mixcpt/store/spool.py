"""How a stage reports what it measures: to a local append-only file, which a task forwards to the tracking server.

A training process never talks to a server, so a server that is away never stops a training.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

_BESIDE = ".flow.jsonl"
_SHORT = 16


@runtime_checkable
class Tracker(Protocol):
    """Where a stage sends its measurements."""

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        """Records `metrics` at `step`; `total_steps` lets a reader show progress."""


class NullTracker:
    """Forgets everything; for notebooks and tests."""

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        pass


@dataclass(frozen=True)
class Measurement:
    """One line of a spool."""

    step: int
    metrics: dict[str, float]
    time_seconds: float
    """Unix time at which it was taken."""
    total_steps: int | None = None


class Spool:
    """An append-only JSON-lines file of measurements."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether there is something to read, here or beside."""
        return self.path.exists() or self.path.with_suffix(_BESIDE).exists()

    def remove(self) -> None:
        """Removes what was read to the end, here and beside."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(_BESIDE).unlink(missing_ok=True)

    @property
    def beside(self) -> "Spool":
        """What the flow process measures about the same stage; two writers of one file could cut each other's lines."""
        return Spool(self.path.with_suffix(_BESIDE))

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"step": step, "metrics": dict(metrics), "time_seconds": time.time(), "total_steps": total_steps}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def read(self, offset: int = 0) -> tuple[list[Measurement], int]:
        """Returns the complete lines after byte `offset`, and the offset to go on from.

        A last line that is still being written, or was cut by a crash, is left for the next call.
        """
        if not self.path.exists():
            return [], offset
        with self.path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        return [_parse(line) for line in whole.splitlines() if _is_json(line)], offset + len(whole)


def spool_of(root: Path, kind: str, fingerprint: str) -> Spool:
    """Returns the spool of a stage, told by what it makes, in the store at `root`."""
    return Spool(root / "work" / "spools" / f"{kind}-{fingerprint[:_SHORT]}.jsonl")


def _is_json(line: bytes) -> bool:
    """A line cut by a crash and continued by the next process is no JSON; its step is logged again after the resume."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parse(line: bytes) -> Measurement:
    data = json.loads(line)
    return Measurement(data["step"], data["metrics"], data["time_seconds"], data.get("total_steps"))
