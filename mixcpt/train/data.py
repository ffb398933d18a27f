"""Packed rows of a mixture as a dataset for Trainer: in the mixture's own order, every step of the same shape."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from mixcpt.errors import DataError
from mixcpt.mixture.rows import IGNORE_INDEX

Row = dict[str, Tensor]
COLUMNS = ("input_ids", "labels", "position_ids", "source_ids")


class PackedRows(Dataset[Row]):
    """The rows of `rows.parquet`, filled up to whole batches by blank rows in which nothing is scored.

    As a loss is divided by the number of scored tokens, a blank row changes no result; it lets the last step have the
    same number of rows on every process.
    """

    def __init__(self, path: Path, batch_rows: int) -> None:
        table = pq.read_table(path, columns=list(COLUMNS))
        if table.num_rows == 0:
            raise DataError(f"{path} has no rows", "the mixture is empty: check sources and weights")
        self.num_rows = int(table.num_rows)
        """Rows of the mixture, without blank ones."""
        self.num_blank_rows = -self.num_rows % batch_rows
        self._columns = {name: _matrix(table.column(name).combine_chunks()) for name in COLUMNS}
        self.row_tokens = int(self._columns["input_ids"].shape[1])

    def __len__(self) -> int:
        return self.num_rows + self.num_blank_rows

    def __getitem__(self, index: int) -> Row:
        row = {name: column[index % self.num_rows].long() for name, column in self._columns.items()}
        if index >= self.num_rows:
            row["labels"] = torch.full_like(row["labels"], IGNORE_INDEX)
        return row


def collate(rows: Sequence[Row]) -> dict[str, Int[Tensor, "batch seq"]]:
    """Returns a batch; without an attention mask, which would let packed documents see each other."""
    return {name: torch.stack([row[name] for row in rows]) for name in COLUMNS}


def _matrix(column: pa.FixedSizeListArray) -> Int[Tensor, "rows seq"]:
    return torch.tensor(column.flatten().to_numpy()).view(len(column), -1)
