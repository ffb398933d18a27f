"""The account of a mixture: what each source has, what was read of it, and what packing made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixcpt.mixture.packing import Packing
from mixcpt.mixture.readings import Readings
from mixcpt.mixture.tables import Table, Tables
from mixcpt.mixture.views import PairsAccount

_SUMS = ("num_rows", "total_tokens", "scored_tokens", "padding_tokens")


def text_account(
    read: Sequence[Table],
    readings: Readings,
    packing: Packing,
    pool_targets: Mapping[str, int],
    row_tokens: int,
    scored_tokens: int,
) -> dict[str, Any]:
    """Returns the account of a stream as JSON values; tokens are real ones, padding is counted apart."""
    tokens = np.bincount(readings.source, weights=readings.length, minlength=len(read)).astype(int)
    split = np.bincount(packing.document, minlength=len(readings.length)) > 1
    num_split = np.bincount(readings.source[split], minlength=len(read))
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
            for index, table in enumerate(read)
        ],
        "pool_targets": dict(pool_targets),
    }


def paired_account(pairs: PairsAccount, tables: Tables, row_tokens: int) -> dict[str, Any]:
    """Returns the account of a stream of pairs; its tokens are the teacher's, the student's are counted apart."""
    total = sum(of.teacher_tokens for of in pairs.sources.values())
    return {
        "num_rows": pairs.num_rows,
        "total_tokens": total,
        "student_tokens": sum(of.student_tokens for of in pairs.sources.values()),
        "scored_tokens": sum(of.scored_tokens for of in pairs.sources.values()),
        "padding_tokens": pairs.num_rows * row_tokens - total,
        "sources": [
            {
                "id": tables.source_names.index(name),
                "name": name,
                "pool": "domain",
                "documents": of.documents,
                "unique_tokens": of.unique_tokens,
                "tokens": of.teacher_tokens,
                "split_documents": 0,
                "one_sentence_documents": of.one_sentence_documents,
                "too_long_documents": of.too_long_documents,
            }
            for name, of in pairs.sources.items()
        ],
        "pool_targets": {"domain": pairs.target_tokens},
    }


def combine(streams: Sequence[Mapping[str, Any]], row_tokens: int) -> dict[str, Any]:
    """Returns the account of a mixture: its streams, and their sums per source and pool."""
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
