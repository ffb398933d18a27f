"""The rows of a mixture as a dataset for Trainer, with their streams interleaved, and the batches made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mixcpt.errors import DataError
from mixcpt.mixture.account import MixtureAccount
from mixcpt.mixture.packing import pack_segments
from mixcpt.mixture.rows import IGNORE_INDEX, NO_SOURCE

Batch = dict[str, Tensor]
"""Tensors by name. The student's have shape [rows, seq]: `input_ids`, `labels` (not shifted), `position_ids`,
`source_ids`, `token_index`; `stream_ids` has shape [rows]. If the teacher reads other rows than the student, there are
also `teacher_input_ids` and `teacher_position_ids` [teacher_rows, seq], and `teacher_index` [rows, seq]: the index of
the student's token among all tokens of the teacher, -1 if it is not scored."""
Block = dict[str, Int[np.ndarray, "rows seq"]]
_FILL = {"input_ids": 0, "labels": IGNORE_INDEX, "source_ids": NO_SOURCE, "token_index": -1, "teacher_index": -1}
_TEXT_COLUMNS = ("input_ids", "labels", "position_ids", "source_ids", "token_index")
_TEACHER_COLUMNS = ("input_ids", "position_ids", "teacher_index")
_STUDENT_COLUMNS = ("student_ids", "student_labels", "student_position_ids", "student_source_ids")


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
        self.streams = [_read(folder / stream.file, is_pair=stream.is_pair) for stream in account.streams]
        if not all(len(stream) for stream in self.streams):
            raise DataError(f"{folder} has a stream without rows", "check the mixture's sources and weights")
        self.row_tokens = account.row_tokens
        self.source_names = [source.name for source in sorted(account.sources, key=lambda source: source.id)]
        self.domain_sources = [source.id for source in account.sources if source.pool == "domain"]
        """Ids of the sources of domain text."""
        self.num_rows = sum(len(stream) for stream in self.streams)
        """Number of rows of the mixture, without blank rows."""
        phases = [stream.phase for stream in account.streams]
        self._stream, self._record = _order([len(stream) for stream in self.streams], phases, batch_rows)
        self.num_blank_rows = len(self._stream) - self.num_rows

    def __len__(self) -> int:
        return len(self._stream)

    def place(self, index: int) -> tuple[int, int]:
        """Return the stream of a row, and its number in the stream's file; -1 for a blank row."""
        return int(self._stream[index]), int(self._record[index])

    def __getitem__(self, index: int) -> Row:
        number, record = int(self._stream[index]), int(self._record[index])
        stream = self.streams[number]
        columns = {name: column[max(record, 0)] for name, column in stream.columns.items()}
        return Row(number, stream.is_pair, record < 0, columns)


def _order(
    lengths: Sequence[int], phases: Sequence[int], batch_rows: int
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Return stream and record of every row, from the streams' numbers of rows; the record of a blank row is -1."""
    order: list[tuple[int, int]] = []
    for phase in sorted(set(phases)):
        places = []
        for number, length in enumerate(lengths):
            if phases[number] == phase:
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


def _read(path: Path, *, is_pair: bool) -> StreamRows:
    names = _TEACHER_COLUMNS + _STUDENT_COLUMNS if is_pair else _TEXT_COLUMNS
    table = pq.read_table(path, columns=list(names))
    return StreamRows({name: _Lists(table.column(name)) for name in names}, is_pair)


@dataclass(frozen=True)
class Collator:
    """Collates rows. The batch has no attention mask, because a mask would make packed documents see each other."""

    row_tokens: int
    needs_teacher: tuple[bool, ...]
    """Whether a stream needs a teacher, by stream."""
    has_teacher_rows: bool
    """Whether the teacher reads other rows than the student: other views, or the rows of some streams only."""

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return the batch; the student's parts of pairs are packed into as few rows as they need.

        Padding has the last token of its row: the embedding of a padding token may be zero, which gives a gradient of
        NaN in some architectures.
        """
        texts = [row for row in rows if not row.is_pair]
        taught = [row for row in texts if self.needs_teacher[row.stream]]
        pairs = [row for row in rows if row.is_pair]
        # at least one row: processes with a sharded teacher must all run it
        teacher_rows = taught + pairs or list(rows[:1])
        first_token = {id(row): number * self.row_tokens for number, row in enumerate(teacher_rows)}
        blocks = [_text_block(texts, first_token)] if texts else []
        for stream in sorted({row.stream for row in pairs}):
            blocks.append(self._pair_block([row for row in pairs if row.stream == stream], first_token))
        batch = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        batch["input_ids"] = _padded_harmlessly(batch["input_ids"], batch["source_ids"] == NO_SOURCE)
        if self.has_teacher_rows:
            for name in ("input_ids", "position_ids"):
                batch[f"teacher_{name}"] = np.stack([row.columns[name] for row in teacher_rows])
        else:
            del batch["teacher_index"]
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}

    def _pair_block(self, pairs: Sequence[Row], first_token: Mapping[int, int]) -> Block:
        """Return the student's parts of some pairs of one stream, packed into as few rows as they need."""
        columns = {
            "input_ids": _joined(pairs, "student_ids"),
            "labels": np.concatenate([_labels(row, "student_labels") for row in pairs]),
            "source_ids": _joined(pairs, "student_source_ids"),
            "teacher_index": np.concatenate([_teacher_index(row, first_token[id(row)]) for row in pairs]),
        }
        positions = _joined(pairs, "student_position_ids")
        row, column = pack_segments(positions, self.row_tokens)
        shape = int(row.max()) + 1, self.row_tokens
        used = np.bincount(row, minlength=shape[0])
        block: Block = {name: np.full(shape, fill) for name, fill in _FILL.items()}
        for name, values in columns.items():
            block[name][row, column] = values
        block["position_ids"] = np.arange(shape[1]) - used[:, None]  # padding forms a segment of its own
        block["position_ids"][row, column] = positions
        return block | {"stream_ids": np.full(shape[0], pairs[0].stream)}


def _text_block(rows: Sequence[Row], first_token: Mapping[int, int]) -> Block:
    """Return rows that both teacher and student read."""
    block = {name: np.stack([row.columns[name] for row in rows]) for name in rows[0].columns}
    block["labels"] = np.stack([_labels(row, "labels") for row in rows])
    width = block["input_ids"].shape[1]
    unread = np.full(width, -1)
    block["teacher_index"] = np.stack(
        [first_token[id(row)] + np.arange(width) if id(row) in first_token else unread for row in rows]
    )
    return block | {"stream_ids": np.array([row.stream for row in rows])}


def _padded_harmlessly(
    input_ids: Int[np.ndarray, "rows seq"], is_padding: Bool[np.ndarray, "rows seq"]
) -> Int[np.ndarray, "rows seq"]:
    """Return the tokens with padding, which ends the rows, replaced by the last token in front of it."""
    last = np.maximum((~is_padding).sum(axis=1) - 1, 0)
    return np.where(is_padding, np.take_along_axis(input_ids, last[:, None], axis=1), input_ids)


def _joined(rows: Sequence[Row], name: str) -> Int[np.ndarray, " tokens"]:
    return np.concatenate([row.columns[name] for row in rows])


def _labels(row: Row, name: str) -> Int[np.ndarray, " tokens"]:
    labels = row.columns[name]
    return np.full_like(labels, IGNORE_INDEX) if row.is_blank else labels


def _teacher_index(row: Row, first_token: int) -> Int[np.ndarray, " tokens"]:
    index = row.columns["teacher_index"].astype(np.int64)
    return np.where(index >= 0, index + first_token, -1)
