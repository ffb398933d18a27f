"""Typed reader of `accounting.json`, which the mixing stage publishes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixcpt.config import Form
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fields import from_fields

FILE = "accounting.json"


@dataclass(frozen=True, kw_only=True)
class SourceAccount:
    """Tokens of one source, in one stream or in the whole mixture."""

    id: int
    """Number of the source in the rows of the mixture."""
    name: str
    pool: str
    """Pool of the source: `domain`, `general`, `instructions` or `preferences`."""
    documents: int
    unique_tokens: int
    """Tokens of all texts, each counted once."""
    tokens: int
    """Tokens that the training reads, over all passes; the teacher's for pairs."""
    split_documents: int = 0
    """Number of readings that packing split over two or more rows."""
    one_sentence_documents: int = 0
    """Number of documents that no view can cut, because they have a single sentence."""
    too_long_documents: int = 0
    """Number of documents that do not fit into a row."""
    share_fraction: float = 0.0
    """Fraction of all tokens of the mixture; 0 in the account of a stream."""
    passes: float = 0.0
    """Number of times that the training reads each token; 0 in the account of a stream."""


@dataclass(frozen=True, kw_only=True)
class StreamAccount:
    """Rows and tokens of one stream of a mixture."""

    file: str
    view: str
    """View that made the rows; `text` if teacher and student read the same tokens."""
    form: Form
    """Form of the domain's documents."""
    phase: int
    """Number of the phase in which the training reads the stream."""
    num_rows: int
    total_tokens: int
    """Tokens that the teacher reads, without padding."""
    scored_tokens: int
    """Tokens with a label."""
    padding_tokens: int
    """Padding of all rows, in tokens."""
    student_tokens: int | None = None
    """Tokens that the student reads; None if they are the teacher's."""
    sources: tuple[SourceAccount, ...]
    """Accounts of the sources in this stream."""
    pool_targets: Mapping[str, int]
    """Planned tokens by pool."""

    @property
    def is_pair(self) -> bool:
        """Whether teacher and student read different tokens."""
        return self.view != "text"


@dataclass(frozen=True, kw_only=True)
class PoolAccount:
    """Planned and real tokens of one pool."""

    tokens: int
    """Tokens that the training reads."""
    target_tokens: int
    """Tokens that the settings ask for."""


@dataclass(frozen=True, kw_only=True)
class MixtureAccount:
    """Sources, streams and totals of a mixture."""

    row_tokens: int
    num_rows: int
    """Number of rows of all streams."""
    total_tokens: int
    """Tokens of all rows, without padding."""
    scored_tokens: int
    """Tokens with a label."""
    padding_tokens: int
    """Padding of all rows, in tokens."""
    fill_fraction: float
    """Fraction of the rows that is not padding."""
    tokens_digest: str = ""
    """SHA-256 of the tokenized texts, by which a cached teacher is found; empty in artifacts of earlier versions."""
    sources: tuple[SourceAccount, ...]
    """Accounts of the sources over all streams, in the order of their numbers."""
    pools: Mapping[str, PoolAccount] = field(default_factory=dict)
    """Accounts of the pools by name."""
    streams: tuple[StreamAccount, ...] = ()
    """Accounts of the streams, in the order of the method; empty in artifacts of earlier versions."""

    @classmethod
    def of(cls, ref: ArtifactRef) -> "MixtureAccount":
        """Return the account that the mixing stage published."""
        return cls.read(ref.directory)

    @classmethod
    def read(cls, folder: Path) -> "MixtureAccount":
        """Return the account in the folder of a mixture."""
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return from_fields(
            cls,
            data,
            sources=_sources(data),
            pools={name: from_fields(PoolAccount, pool) for name, pool in data.get("pools", {}).items()},
            streams=tuple(
                from_fields(StreamAccount, stream, sources=_sources(stream)) for stream in data.get("streams", ())
            ),
        )


def _sources(data: Mapping[str, Any]) -> tuple[SourceAccount, ...]:
    return tuple(from_fields(SourceAccount, source) for source in data["sources"])
