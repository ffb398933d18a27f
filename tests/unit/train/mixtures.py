"""Mixtures of one stream, written without the mixing stage."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_mixture(
    folder: Path, columns: Mapping[str, np.ndarray], pools: Mapping[str, str], *, tokens_digest: str = ""
) -> Path:
    """Write the files of a mixture of one stream, and return the folder.

    Args:
        folder: Folder of the mixture.
        columns: Columns of the rows, each [rows, row_tokens], without `token_index`.
        pools: Pool of every source by name, in the order of the source ids.
        tokens_digest: Digest of the texts.
    """
    num_rows, row_tokens = columns["input_ids"].shape
    indexed = {**columns, "token_index": np.arange(num_rows * row_tokens).reshape(num_rows, row_tokens)}
    lists = {}
    for name, values in indexed.items():
        lists[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), row_tokens)
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(lists), folder / "rows-0.parquet")
    counts = {"num_rows": num_rows, "total_tokens": 0, "scored_tokens": 0, "padding_tokens": 0}
    sources = []
    for number, (name, pool) in enumerate(pools.items()):
        sources.append({"id": number, "name": name, "pool": pool, "documents": 0, "unique_tokens": 0, "tokens": 0})
    stream = {"file": "rows-0.parquet", "view": "text", "form": "text", "phase": 0, "sources": [], "pool_targets": {}}
    accounting = {
        "row_tokens": row_tokens,
        "fill_fraction": 1.0,
        "tokens_digest": tokens_digest,
        "sources": sources,
        "pools": {},
        "streams": [stream | counts],
    }
    (folder / "accounting.json").write_text(json.dumps(accounting | counts))
    return folder
