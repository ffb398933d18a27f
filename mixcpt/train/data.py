"""The rows of a mixture as a dataset for Trainer: streams interleaved, the same number of rows in every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from mixcpt.errors import DataError
from mixcpt.mixture.account import MixtureAccount, StreamAccount

TEXT_COLUMNS = ("input_ids", "labels", "position_ids", "source_ids", "token_index")
PAIR_COLUMNS = (
    *("input_ids", "position_ids"),
    *("student_ids", "student_labels", "student_position_ids", "student_source_ids", "teacher_index"),
)


@dataclass(frozen=True)
class Row:
    """One record of a stream's file."""

    stream: int
    is_pair: bool
    """Whether teacher and student read different text."""
    is_blank: bool
    """Whether the row only fills a batch, so that none of its tokens is scored."""
    columns: Mapping[str, Int[np.ndarray, " _"]]


@dataclass(frozen=True)
class StreamRows:
    """All records of a stream."""

    columns: Mapping[str, "_Lists"]
    is_pair: bool
    phase: int

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the teacher reads, padding included; without pairs the student reads the same."""
        return self.columns["input_ids"].num_values

    @property
    def student_tokens(self) -> int:
        """Number of tokens that the student reads."""
        return self.columns["student_ids" if self.is_pair else "input_ids"].num_values


class MixtureRows:
    """The rows of all streams in the order of training, phase after phase.

    Within a phase the rows of every stream are spread evenly. Each phase is filled to whole batches by blank rows. They
    change no result, because a loss is divided by the number of scored tokens.
    """

    def __init__(self, folder: Path, batch_rows: int) -> None:
        account = MixtureAccount.read(folder)
        self.streams = [_read(folder / stream.file, stream) for stream in account.streams]
        if not all(len(stream) for stream in self.streams):
            raise DataError(f"{folder} has a stream without rows", "check the mixture's sources and weights")
        self.row_tokens = account.row_tokens
        self.source_names = [source.name for source in sorted(account.sources, key=lambda source: source.id)]
        self.domain_sources = [source.id for source in account.sources if source.pool == "domain"]
        """Ids of the sources of domain text."""
        self.num_rows = sum(len(stream) for stream in self.streams)
        """Number of rows of the mixture, without blank rows."""
        self._stream, self._record = _order([(len(stream), stream.phase) for stream in self.streams], batch_rows)
        self.num_blank_rows = len(self._stream) - self.num_rows

    def __len__(self) -> int:
        return len(self._stream)

    def __getitem__(self, index: int) -> Row:
        number, record = int(self._stream[index]), int(self._record[index])
        stream = self.streams[number]
        columns = {name: column[max(record, 0)] for name, column in stream.columns.items()}
        return Row(number, stream.is_pair, record < 0, columns)


def _order(
    streams: Sequence[tuple[int, int]], batch_rows: int
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Return stream and record of every row; the record of a blank row is -1.

    Args:
        streams: Number of rows and phase of every stream.
        batch_rows: Rows per batch; every phase is filled to a multiple of it.
    """
    order: list[tuple[int, int]] = []
    for phase in sorted({phase for _, phase in streams}):
        places = []
        for number, (length, stream_phase) in enumerate(streams):
            if stream_phase == phase:
                places += [((record + 0.5) / length, number, record) for record in range(length)]
        rows = [(number, record) for _, number, record in sorted(places)]
        order += rows + [(rows[-1][0], -1)] * (-len(rows) % batch_rows)
    stream, record = np.array(order).T
    return stream, record


class _Lists:
    """A column of lists of any lengths."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunk = column.combine_chunks()
        self._values = chunk.flatten().to_numpy(zero_copy_only=False)
        if isinstance(chunk, pa.FixedSizeListArray):
            self._offsets = np.arange(len(chunk) + 1) * chunk.type.list_size
        else:
            self._offsets = chunk.offsets.to_numpy() - chunk.offsets[0].as_py()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def num_values(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Int[np.ndarray, " _"]:
        values: Int[np.ndarray, " _"] = self._values[self._offsets[index] : self._offsets[index + 1]]
        return values


def _read(path: Path, stream: StreamAccount) -> StreamRows:
    names = PAIR_COLUMNS if stream.is_pair else TEXT_COLUMNS
    table = pq.read_table(path, columns=list(names))
    return StreamRows({name: _Lists(table.column(name)) for name in names}, stream.is_pair, stream.phase)
