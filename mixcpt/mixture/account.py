"""The account of a mixture, `accounting.json`: tokens available and read per source, and the rows after packing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixcpt.config import Form
from mixcpt.store.artifacts import ArtifactRef, from_fields

if TYPE_CHECKING:
    from mixcpt.mixture.packing import Packing
    from mixcpt.mixture.pairs import PairsAccount
    from mixcpt.mixture.readings import Readings
    from mixcpt.mixture.tables import Table, Tables

FILE = "accounting.json"
_SUMS = ("num_rows", "total_tokens", "scored_tokens", "padding_tokens")


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
    student_tokens: int | None = None
    """Tokens that the student reads; None if they are the teacher's."""
    sources: tuple[SourceAccount, ...]
    pool_targets: Mapping[str, int]
    """Planned tokens by pool."""

    @property
    def is_pair(self) -> bool:
        """Whether teacher and student read different tokens."""
        return self.view != "text"


@dataclass(frozen=True, kw_only=True)
class PoolAccount:
    """Real and planned tokens of one pool."""

    tokens: int
    target_tokens: int


@dataclass(frozen=True, kw_only=True)
class MixtureAccount:
    """Sources, streams and totals of a mixture."""

    row_tokens: int
    num_rows: int
    total_tokens: int
    """Tokens of all rows, without padding."""
    scored_tokens: int
    padding_tokens: int
    fill_fraction: float
    """Fraction of the rows that is not padding."""
    tokens_digest: str = ""
    """SHA-256 of the tokenized texts, by which a cached teacher is found; empty in artifacts of earlier versions."""
    sources: tuple[SourceAccount, ...]
    """Accounts of the sources over all streams, in the order of their numbers."""
    pools: Mapping[str, PoolAccount] = field(default_factory=dict)
    streams: tuple[StreamAccount, ...] = ()
    """Accounts of the streams, in the order of the method; empty in artifacts of earlier versions."""

    @classmethod
    def of(cls, mixture: ArtifactRef) -> MixtureAccount:
        """Return the account of a mixture."""
        return cls.read(mixture.directory)

    @classmethod
    def read(cls, folder: Path) -> MixtureAccount:
        """Return the account in the folder of a mixture."""
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        pools = {name: from_fields(PoolAccount, pool) for name, pool in data.get("pools", {}).items()}
        streams = [from_fields(StreamAccount, stream, sources=_sources(stream)) for stream in data.get("streams", ())]
        return from_fields(cls, data, sources=_sources(data), pools=pools, streams=tuple(streams))


def _sources(data: Mapping[str, Any]) -> tuple[SourceAccount, ...]:
    return tuple(from_fields(SourceAccount, source) for source in data["sources"])


def text_account(
    tables: Sequence[Table],
    readings: Readings,
    packing: Packing,
    *,
    pool_targets: Mapping[str, int],
    row_tokens: int,
    scored_tokens: int,
) -> dict[str, Any]:
    """Return the account of a stream of texts as JSON values; padding is counted separately from tokens."""
    tokens = np.bincount(readings.source, weights=readings.length, minlength=len(tables)).astype(int)
    split = np.bincount(packing.document, minlength=len(readings.length)) > 1
    num_split = np.bincount(readings.source[split], minlength=len(tables))
    total = int(tokens.sum())
    return {
        "num_rows": packing.num_rows,
        "total_tokens": total,
        "scored_tokens": scored_tokens,
        "padding_tokens": packing.num_rows * row_tokens - total,
        "sources": [
            {
                "id": table.source_id,
                "name": table.name,
                "pool": table.pool,
                "documents": len(table.texts.lengths),
                "unique_tokens": len(table.texts.tokens),
                "tokens": int(tokens[index]),
                "split_documents": int(num_split[index]),
            }
            for index, table in enumerate(tables)
        ],
        "pool_targets": dict(pool_targets),
    }


def paired_account(pairs: PairsAccount, tables: Tables, row_tokens: int) -> dict[str, Any]:
    """Return the account of a stream of pairs; `total_tokens` are the teacher's."""
    total = sum(counts.teacher_tokens for counts in pairs.sources.values())
    return {
        "num_rows": pairs.num_rows,
        "total_tokens": total,
        "student_tokens": sum(counts.student_tokens for counts in pairs.sources.values()),
        "scored_tokens": sum(counts.scored_tokens for counts in pairs.sources.values()),
        "padding_tokens": pairs.num_rows * row_tokens - total,
        "sources": [
            {
                "id": tables.source_names.index(name),
                "name": name,
                "pool": "domain",
                "documents": counts.documents,
                "unique_tokens": counts.unique_tokens,
                "tokens": counts.teacher_tokens,
                "split_documents": 0,
                "one_sentence_documents": counts.one_sentence_documents,
                "too_long_documents": counts.too_long_documents,
            }
            for name, counts in pairs.sources.items()
        ],
        "pool_targets": {"domain": pairs.target_tokens},
    }


def combine(streams: Sequence[Mapping[str, Any]], row_tokens: int) -> dict[str, Any]:
    """Return the account of a mixture: the accounts of its streams, and their sums per source and pool."""
    total = {name: sum(stream[name] for stream in streams) for name in _SUMS}
    sources: dict[int, dict[str, Any]] = {}
    pools: dict[str, dict[str, int]] = {}
    for stream in streams:
        for entry in stream["sources"]:
            known = sources.setdefault(entry["id"], {**entry, "tokens": 0, "split_documents": 0})
            known["tokens"] += entry["tokens"]
            known["split_documents"] += entry["split_documents"]
            pools.setdefault(entry["pool"], {"tokens": 0, "target_tokens": 0})["tokens"] += entry["tokens"]
        for pool, target in stream["pool_targets"].items():
            pools.setdefault(pool, {"tokens": 0, "target_tokens": 0})["target_tokens"] += target
    for entry in sources.values():
        entry["share_fraction"] = entry["tokens"] / total["total_tokens"]
        entry["passes"] = entry["tokens"] / max(entry["unique_tokens"], 1)
    return {
        "row_tokens": row_tokens,
        **total,
        "fill_fraction": total["total_tokens"] / (total["num_rows"] * row_tokens),
        "sources": [sources[index] for index in sorted(sources)],
        "pools": pools,
        "streams": list(streams),
    }
