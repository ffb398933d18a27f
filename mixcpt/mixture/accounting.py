"""The account of a mixture: tokens available and read per source, and the rows after packing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixcpt.mixture.packing import Packing
from mixcpt.mixture.readings import Readings
from mixcpt.mixture.tables import Table, Tables
from mixcpt.mixture.views import PairsAccount

_SUMS = ("num_rows", "total_tokens", "scored_tokens", "padding_tokens")


def text_account(
    tables: Sequence[Table],
    readings: Readings,
    packing: Packing,
    pool_targets: Mapping[str, int],
    *,
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
                "name": table.tokenized.name,
                "pool": table.tokenized.pool,
                "documents": len(table.tokenized.texts.lengths),
                "unique_tokens": table.tokenized.num_tokens,
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
