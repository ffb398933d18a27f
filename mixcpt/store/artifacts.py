"""The artifact store: immutable folders, found by a fingerprint of their inputs and settings, and published atomically.

    ROOT/<kind>/<first 16 digits of the fingerprint>/
        ...            files of the artifact
        record.json    settings, inputs, metrics and the digest of every file
        COMPLETE       digest of record.json; written last
    ROOT/work/<kind>/<first 16 digits>/   checkpoints and logs of a running stage; survives a crash

A reader never sees half an artifact. It is written to a temporary folder, synced and renamed, and accepted only if its
COMPLETE marker and the digests of its files are right.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from mixcpt.errors import ArtifactError
from mixcpt.store.fingerprint import canonical_json, file_digest, fingerprint

RECORD = "record.json"
MARKER = "COMPLETE"
_SHORT = 16

_log = logging.getLogger("mixcpt.store")

Metrics = Mapping[str, Any]
Record = TypeVar("Record")


@dataclass(frozen=True)
class ArtifactRef:
    """Reference to a published artifact; stages pass references to each other instead of data."""

    kind: str
    """Kind of artifact, such as `corpus` or `model`."""
    fingerprint: str
    """Fingerprint of its `StageKey`."""
    digest: str
    """SHA-256 over the artifact's files: equal digests mean equal content."""
    path: str
    reused: Annotated[bool, Field(exclude=True)] = field(default=False, compare=False)
    """Whether the store already contained it when it was requested."""

    @property
    def directory(self) -> Path:
        return Path(self.path)

    @property
    def record(self) -> dict[str, Any]:
        """Content of `record.json`: `settings`, `inputs`, `metrics`, `files`, `created_at`, `seconds`."""
        return read_object(self, RECORD)

    @property
    def short(self) -> str:
        return self.fingerprint[:_SHORT]

    def file(self, name: str) -> Path:
        return self.directory / name

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "fingerprint": self.fingerprint, "digest": self.digest, "path": self.path}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> "ArtifactRef":
        return cls(data["kind"], data["fingerprint"], data["digest"], data["path"])


@dataclass(frozen=True)
class StageKey:
    """Everything that can change the result of a stage."""

    kind: str
    """Kind of artifact that the stage publishes."""
    version: int
    """Version of the stage, raised if a change of its code changes results."""
    settings: Any
    """Settings as JSON values or pydantic models, without paths, devices and addresses."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digests of the inputs by role."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(vars(self) | {"inputs": dict(self.inputs)})


OnBuild = Callable[[StageKey], None]
"""Callback before an artifact is built; not called if the store contains the artifact."""


class ArtifactStore:
    """A folder of artifacts; the docstring of this module shows its layout."""

    def __init__(self, root: Path | str, *, on_build: OnBuild = lambda key: None) -> None:
        self.root = Path(root).expanduser().resolve()
        self._on_build = on_build

    def find(self, kind: str, identity: str) -> ArtifactRef | None:
        """Return the artifact with this fingerprint, or None if it is missing or damaged."""
        ref = _open(self._directory(kind, identity))
        return ref if ref and ref.fingerprint == identity else None

    def survey(self) -> list[ArtifactRef]:
        """Return all artifacts, oldest first; unlike `list`, it reads their records only and checks no other file."""
        folders = [marker.parent for marker in self.root.glob(f"*/*/{MARKER}")]
        records = [(json.loads((folder / RECORD).read_text()), folder) for folder in folders]
        return [_reference(*entry) for entry in sorted(records, key=lambda entry: str(entry[0]["created_at"]))]

    def list(self, kind: str) -> list[ArtifactRef]:
        """Return the undamaged artifacts of a kind, oldest first."""
        refs = [ref for marker in (self.root / kind).glob(f"*/{MARKER}") if (ref := _open(marker.parent))]
        return sorted(refs, key=lambda ref: str(ref.record["created_at"]))

    def work_directory(self, key: StageKey) -> Path:
        """Create the folder for the checkpoints and logs of a stage, if it is missing, and return it."""
        directory = self.root / "work" / key.kind / key.fingerprint[:_SHORT]
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def produce(
        self, key: StageKey, build: Callable[[Path], Metrics], *, lineage: Mapping[str, Any] | None = None
    ) -> ArtifactRef:
        """Build and publish the artifact of a key, if the store has none, and return its reference.

        Args:
            build: Writes the files into the given folder and returns the metrics to record.
            lineage: Source paths and names to record; they are not part of the identity.

        Raises:
            ArtifactError: If the disk is full or not writable. The partial files are removed.
        """
        if ref := self.find(key.kind, key.fingerprint):
            return ref
        with self._lock(key):
            if ref := self.find(key.kind, key.fingerprint):
                return ref
            with self._draft(key) as draft:
                self._on_build(key)
                started = time.monotonic()
                metrics = build(draft)
                seconds = time.monotonic() - started
                return self._publish(key, draft, dict(metrics), seconds, dict(lineage or {}))

    def discard_work(self, key: StageKey) -> None:
        """Remove the work folder of a stage whose artifact is published."""
        shutil.rmtree(self.root / "work" / key.kind / key.fingerprint[:_SHORT], ignore_errors=True)

    def _directory(self, kind: str, identity: str) -> Path:
        return self.root / kind / identity[:_SHORT]

    @contextmanager
    def _lock(self, key: StageKey) -> Iterator[None]:
        """Hold the lock of a stage, after waiting for any other process that holds it.

        The kernel releases the lock when its holder dies, so a crash never blocks. After the wait, the artifact
        is in the store, or this process builds it.
        """
        with (self.work_directory(key) / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("another process is working on %s %s; waiting for it", key.kind, key.fingerprint[:_SHORT])
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _draft(self, key: StageKey) -> Iterator[Path]:
        parent = self.root / key.kind
        try:
            parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
        except OSError as error:
            raise _unwritable(parent, error) from error
        try:
            yield draft
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise _unwritable(parent, error) from error
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _publish(
        self, key: StageKey, draft: Path, metrics: dict[str, Any], seconds: float, lineage: dict[str, Any]
    ) -> ArtifactRef:
        names = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
        files = {name: file_digest(draft / name) for name in names}
        digest = fingerprint(files)
        record = {
            "kind": key.kind,
            "fingerprint": key.fingerprint,
            "digest": digest,
            "version": key.version,
            "settings": json.loads(canonical_json(key.settings)),
            "inputs": dict(key.inputs),
            "lineage": lineage,
            "metrics": metrics,
            "files": files,
            "created_at": datetime.now(UTC).isoformat(),
            "seconds": round(seconds, 3),
        }
        (draft / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True))
        for name in [*names, RECORD]:
            _sync(draft / name)
        (draft / MARKER).write_text(file_digest(draft / RECORD))
        _sync(draft / MARKER)
        target = self._directory(key.kind, key.fingerprint)
        shutil.rmtree(target, ignore_errors=True)  # damaged, otherwise `find` would have returned it
        draft.rename(target)
        _sync(target.parent)
        return ArtifactRef(key.kind, key.fingerprint, digest, str(target))


def from_fields(record_class: type[Record], data: Mapping[str, Any], **converted: Any) -> Record:
    """Return a dataclass instance from the entries of `data` that are fields of it, and from values that replace them.

    Other entries are ignored; the defaults of the dataclass replace entries that older artifacts lack.
    """
    known = {field.name for field in fields(record_class)}  # type: ignore[arg-type]
    return record_class(**{name: value for name, value in data.items() if name in known} | converted)


def read_object(ref: ArtifactRef, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of an artifact."""
    content: dict[str, Any] = json.loads(ref.file(name).read_text(encoding="utf-8"))
    return content


def _open(directory: Path) -> ArtifactRef | None:
    """Return the artifact of a folder, or None if a file is missing or does not match its digest."""
    try:
        if (directory / MARKER).read_text().strip() != file_digest(directory / RECORD):
            return None
        record = json.loads((directory / RECORD).read_text())
        if any(file_digest(directory / name) != digest for name, digest in record["files"].items()):
            return None
    except FileNotFoundError:
        return None
    return _reference(record, directory)


def _reference(record: Mapping[str, Any], directory: Path) -> ArtifactRef:
    return ArtifactRef(record["kind"], record["fingerprint"], record["digest"], str(directory), reused=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(parent: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write into the artifact store at {parent}: {error.strerror or error}",
        "free some space, or set runtime.store to another disk; the partial files were removed",
    )
