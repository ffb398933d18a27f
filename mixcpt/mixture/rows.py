"""Turn packed documents into rows of token ids, labels, positions and source ids, and write them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from mixcpt.mixture.packing import Packing

IGNORE_INDEX = -100
"""Label of a token that is not scored, as in Hugging Face losses."""
NO_SOURCE = -1
"""Source id of padding."""
_ROWS_TOKENS = 1 << 20
"""Number of tokens handled at once; also the size of a row group of the file."""

_TYPES = {
    "input_ids": pa.int32(),
    "labels": pa.int32(),
    "position_ids": pa.int32(),
    "source_ids": pa.int16(),
    "token_index": pa.int64(),
}


@dataclass(frozen=True)
class DocumentTokens:
    """The tokens that the segments of a packing refer to."""

    tokens: Int[np.ndarray, " tokens"]
    scored: Bool[np.ndarray, " tokens"]
    start: Int[np.ndarray, " documents"]
    """Index of the first token of every packed document; two readings of one document have the same value."""
    source: Int[np.ndarray, " documents"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Packed rows. Labels are not shifted: the label at t is the token at t."""

    input_ids: Int[np.ndarray, "rows seq"]
    labels: Int[np.ndarray, "rows seq"]
    position_ids: Int[np.ndarray, "rows seq"]
    source_ids: Int[np.ndarray, "rows seq"]
    token_index: Int[np.ndarray, "rows seq"]
    """Index of the token among the tokens of all texts; -1 for padding."""


def lay_out(packing: Packing, documents: DocumentTokens, row_tokens: int, padding_id: int) -> Iterator[Rows]:
    """Yield the rows in order, in blocks of many rows.

    In every segment positions restart at 0 and the first label is masked, because no token before it predicts it.
    Padding is one more segment at the end of the row.
    """
    per_block = max(1, _ROWS_TOKENS // row_tokens)
    for first in range(0, packing.num_rows, per_block):
        last = min(first + per_block, packing.num_rows)
        begin, end = np.searchsorted(packing.row, [first, last])
        block = packing.select(slice(begin, end), packing.row[begin:end] - first)
        yield _lay_out(block, documents, (last - first, row_tokens), padding_id)


def _lay_out(packing: Packing, documents: DocumentTokens, shape: tuple[int, int], padding_id: int) -> Rows:
    lengths = packing.length
    # Rows are filled from the left, so indexing by `filled` lists the tokens of all segments in order.
    used = np.bincount(packing.row, weights=lengths, minlength=shape[0]).astype(np.int64)
    columns = np.broadcast_to(np.arange(shape[1]), shape)
    filled = columns < used[:, None]
    # Position of every of these tokens within its segment, and its index among the tokens of all texts.
    offsets = np.cumsum(lengths) - lengths
    within = np.arange(int(lengths.sum())) - np.repeat(offsets, lengths)
    origin = np.repeat(documents.start[packing.document] + packing.start, lengths) + within
    tokens = documents.tokens[origin]
    input_ids = np.full(shape, padding_id, np.int32)
    input_ids[filled] = tokens
    labels = np.full(shape, IGNORE_INDEX, np.int32)
    labels[filled] = np.where(documents.scored[origin] & (within > 0), tokens, IGNORE_INDEX)
    position_ids = (columns - used[:, None]).astype(np.int32)
    position_ids[filled] = within
    source_ids = np.full(shape, NO_SOURCE, np.int16)
    source_ids[filled] = np.repeat(documents.source[packing.document], lengths)
    token_index = np.full(shape, -1, np.int64)
    token_index[filled] = origin
    return Rows(
        input_ids=input_ids, labels=labels, position_ids=position_ids, source_ids=source_ids, token_index=token_index
    )


def write_rows(path: Path, blocks: Iterable[Rows], row_tokens: int) -> int:
    """Write blocks of rows to a parquet file, each as row groups of its own, and return the number of scored tokens."""
    schema = pa.schema([(name, pa.list_(kind, row_tokens)) for name, kind in _TYPES.items()])
    scored_tokens = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in blocks:
            flat = [pa.array(getattr(rows, name).reshape(-1)) for name in schema.names]
            columns = [pa.FixedSizeListArray.from_arrays(values, row_tokens) for values in flat]
            writer.write_table(pa.table(columns, schema=schema))
            scored_tokens += int((rows.labels != IGNORE_INDEX).sum())
    return scored_tokens
