"""The account of a mixture: what each source has, what was read of it, and what packing made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixcpt.mixture.packing import Packing
from mixcpt.mixture.plan import Readings
from mixcpt.mixture.tokens import TokenizedSource


def account(
    sources: Sequence[TokenizedSource],
    readings: Readings,
    packing: Packing,
    pool_targets: Mapping[str, int],
    row_tokens: int,
    scored_tokens: int,
) -> dict[str, Any]:
    """Returns the account as JSON values; tokens are real ones, padding is counted apart."""
    tokens = np.bincount(readings.source, weights=readings.length, minlength=len(sources)).astype(int)
    split = np.bincount(packing.document, minlength=len(readings.length)) > 1
    num_split = np.bincount(readings.source[split], minlength=len(sources))
    total, room = int(tokens.sum()), packing.num_rows * row_tokens
    pools = {pool: {"tokens": 0, "target_tokens": target} for pool, target in pool_targets.items()}
    for source, count in zip(sources, tokens.tolist(), strict=True):
        pools[source.pool]["tokens"] += count
    return {
        "row_tokens": row_tokens,
        "num_rows": packing.num_rows,
        "total_tokens": total,
        "scored_tokens": scored_tokens,
        "padding_tokens": room - total,
        "fill_fraction": total / room,
        "sources": [
            {
                "id": index,
                "name": source.name,
                "pool": source.pool,
                "documents": len(source.texts.lengths),
                "unique_tokens": source.num_tokens,
                "tokens": int(tokens[index]),
                "share_fraction": int(tokens[index]) / total,
                "passes": int(tokens[index]) / source.num_tokens,
                "split_documents": int(num_split[index]),
            }
            for index, source in enumerate(sources)
        ],
        "pools": pools,
    }
