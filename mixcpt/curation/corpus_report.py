"""Typed reader of `report.json`, which curation publishes: counts by pool, by source and by reason of removal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixcpt.config import Pool
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fields import from_fields, read_object

FILE = "report.json"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that curation read."""

    name: str
    """Name of the file, without its folder."""
    bytes: int
    """Size in bytes."""
    sha256: str
    """SHA-256 of the content."""


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """Counts of one source: read = quarantined + removed + held out + kept."""

    pool: Pool
    read: int
    quarantined: int
    """Number of records that could not be parsed."""
    removed: int
    """Number of records that a cleaning step removed."""
    heldout: int
    """Number of records held out for measuring."""
    kept: int
    """Number of records for training."""
    bytes: int
    """Text size of the kept records in bytes."""
    files: tuple[SourceFile, ...] = ()
    """Files that were read; empty in artifacts of earlier versions."""


@dataclass(frozen=True, kw_only=True)
class PoolReport:
    """Counts of one pool."""

    records: int
    """Number of records for training."""
    bytes: int
    """Text size of these records in bytes."""
    heldout: int
    """Number of records held out for measuring."""


@dataclass(frozen=True, kw_only=True)
class RemovedRecords:
    """Records that one step removed from one source for one reason."""

    step: str
    reason: str
    """Reason that the step gives."""
    source: str
    records: int
    bytes: int
    """Text size of these records in bytes."""


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """Counts of a curation."""

    pools: Mapping[str, PoolReport]
    """Counts by pool."""
    sources: Mapping[str, SourceReport]
    """Counts by name of the source."""
    removed: tuple[RemovedRecords, ...]
    """Removed records by step, reason and source."""

    @classmethod
    def of(cls, ref: ArtifactRef) -> "CorpusReport":
        """Return the report that curation, or the registration of a corpus, published."""
        data = read_object(ref, FILE)
        return cls(
            pools={name: from_fields(PoolReport, pool) for name, pool in data["pools"].items()},
            sources={name: _source(source) for name, source in data["sources"].items()},
            removed=tuple(from_fields(RemovedRecords, entry) for entry in data["removed"]),
        )


def _source(data: Mapping[str, Any]) -> SourceReport:
    files = tuple(from_fields(SourceFile, file) for file in data.get("files", ()))
    return from_fields(SourceReport, data, files=files)
