"""Measurements of a running stage: appended to a local file, which a task forwards to the tracking server.

A training process never connects to a server, so an unavailable server never stops a training.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

_FLOW_SUFFIX = ".flow.jsonl"
_SHORT = 16


@runtime_checkable
class Tracker(Protocol):
    """Receiver of the measurements of a stage."""

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        """Record metrics at a step; `total_steps` lets a reader show progress."""


class NullTracker:
    """Tracker that discards all measurements; for notebooks and tests."""

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        pass


@dataclass(frozen=True)
class Measurement:
    """One line of a spool."""

    step: int
    metrics: dict[str, float]
    time_seconds: float
    """Unix time of the measurement."""
    total_steps: int | None = None
    """Number of steps of the stage; None if unknown."""


class Spool:
    """An append-only JSON-lines file of measurements."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def flow_spool(self) -> "Spool":
        """File for the flow process's measurements of the same stage; two writers of one file could mix their lines."""
        return Spool(self.path.with_suffix(_FLOW_SUFFIX))

    @property
    def exists(self) -> bool:
        """Whether this file or that of the flow process exists."""
        return self.path.exists() or self.flow_spool.path.exists()

    def remove(self) -> None:
        """Remove this file and that of the flow process."""
        for spool in (self, self.flow_spool):
            spool.path.unlink(missing_ok=True)

    def log(self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None) -> None:
        """Append a measurement and sync the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        measurement = Measurement(step, dict(metrics), time.time(), total_steps)
        with self.path.open("a") as stream:
            stream.write(json.dumps(vars(measurement)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def read(self, offset: int = 0) -> tuple[list[Measurement], int]:
        """Return the measurements after byte `offset`, and the offset for the next call.

        An incomplete last line is left for the next call.
        """
        lines, offset = complete_lines(self.path, offset)
        return list(_measurements(lines)), offset


def complete_lines(path: Path, offset: int) -> tuple[bytes, int]:
    """Return the complete lines of a file after byte `offset`, and the offset of the next read."""
    if not path.exists():
        return b"", offset
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    lines = data[: data.rfind(b"\n") + 1]
    return lines, offset + len(lines)


def spool_of(root: Path, kind: str, fingerprint: str) -> Spool:
    """Return the spool of the stage that makes an artifact in the store at `root`."""
    return Spool(root / "work" / "spools" / f"{kind}-{fingerprint[:_SHORT]}.jsonl")


def _measurements(lines: bytes) -> Iterator[Measurement]:
    for line in lines.splitlines():
        # a line that a crash cut and the next process continued; its step is logged again after the resume
        with suppress(ValueError):
            yield Measurement(**json.loads(line))
