"""The report that curation publishes: counts by pool, by source and by reason of removal."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from mixcpt.config import Pool
from mixcpt.store.artifacts import ArtifactRef

HELDOUT_INSTRUCTIONS = "heldout_instructions.parquet"
"""File with the held-out instructions, if there are any."""
FILE = "report.json"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """Identity of the content of a file that curation read, or of a dataset without files."""

    name: str
    """Path of the file in its source, or name of the dataset."""
    sha256: str
    bytes: int


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


@dataclass(frozen=True)
class RemovedRecords:
    """Records that one step removed from one source for one reason."""

    step: str
    reason: str
    source: str
    records: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """Counts of a curation."""

    pools: Mapping[str, PoolReport]
    sources: Mapping[str, SourceReport]
    removed: tuple[RemovedRecords, ...]

    @classmethod
    def of(cls, ref: ArtifactRef) -> "CorpusReport":
        """Return the report that curation, or the registration of a corpus, published."""
        return TypeAdapter(cls).validate_json(ref.file(FILE).read_bytes())
