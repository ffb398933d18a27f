"""Collates rows of several streams into one batch: the student's rows, the teacher's rows, and their correspondence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mixcpt.mixture.rows import IGNORE_INDEX, NO_SOURCE
from mixcpt.mixture.views import pack_segments
from mixcpt.train.data import Row

Batch = dict[str, Tensor]
"""Tensors by name. The student's have shape [rows, seq]: `input_ids`, `labels` (not shifted), `position_ids`,
`source_ids`, `token_index`; `stream_ids` has shape [rows]. If the teacher reads other rows than the student, there are
also `teacher_input_ids` and `teacher_position_ids` [teacher_rows, seq], and `teacher_index` [rows, seq]: the index of
the student's token among all tokens of the teacher, -1 if it is not scored."""
Block = dict[str, Int[np.ndarray, "rows seq"]]
_FILL = {"input_ids": 0, "labels": IGNORE_INDEX, "source_ids": NO_SOURCE, "token_index": -1, "teacher_index": -1}


@dataclass(frozen=True)
class Collator:
    """Collates rows. The batch has no attention mask, because a mask would make packed documents see each other."""

    row_tokens: int
    needs_teacher: tuple[bool, ...]
    """Whether a stream needs a teacher, by stream."""
    has_teacher_rows: bool
    """Whether the teacher reads other rows than the student: other views, or the rows of some streams only."""

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return the batch; the student's parts of pairs are packed into as few rows as they need."""
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


def _joined(rows: Sequence[Row], name: str) -> Int[np.ndarray, " tokens"]:
    return np.concatenate([row.columns[name] for row in rows])


def _labels(row: Row, name: str) -> Int[np.ndarray, " tokens"]:
    labels = row.columns[name]
    return np.full_like(labels, IGNORE_INDEX) if row.is_blank else labels


def _teacher_index(row: Row, first_token: int) -> Int[np.ndarray, " tokens"]:
    index = row.columns["teacher_index"].astype(np.int64)
    return np.where(index >= 0, index + first_token, -1)
