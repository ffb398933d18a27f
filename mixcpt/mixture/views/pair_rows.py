"""Write rows of the teacher together with the student's parts of the same documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from mixcpt.mixture.packing import Packing
from mixcpt.mixture.rows import DocumentTokens, lay_out
from mixcpt.mixture.views.cuts import CutDocument, StudentParts

_STUDENT = {
    "student_ids": pa.int32(),
    "student_labels": pa.int32(),
    "student_position_ids": pa.int32(),
    "student_source_ids": pa.int16(),
    "teacher_index": pa.int32(),
}


@dataclass(frozen=True)
class PairedReading:
    """One reading of one document by teacher and student."""

    document: CutDocument
    parts: StudentParts
    source: int


class PairWriter:
    """Writer of a parquet file with the rows of teacher and student."""

    def __init__(self, path: Path, row_tokens: int, padding_id: int) -> None:
        self._row_tokens = row_tokens
        self._padding_id = padding_id
        teacher = {name: pa.list_(pa.int32(), row_tokens) for name in ("input_ids", "position_ids")}
        student = {name: pa.large_list(kind) for name, kind in _STUDENT.items()}
        self._schema = pa.schema(list({**teacher, **student}.items()))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, rows: Sequence[Sequence[PairedReading]]) -> None:
        """Write the readings of several rows, in their order."""
        columns = {**self._teacher(rows), **self._student(rows)}
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def _teacher(self, rows: Sequence[Sequence[PairedReading]]) -> dict[str, Any]:
        readings = list(chain.from_iterable(rows))
        numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        lengths = np.array([reading.document.num_tokens for reading in readings])
        ids = np.concatenate([reading.document.ids for reading in readings])
        documents = DocumentTokens(
            tokens=ids,
            scored=np.zeros(len(ids), np.bool_),  # only the ids and positions of the teacher are used
            start=np.cumsum(lengths) - lengths,
            source=numbers,
        )
        packing = Packing(row=numbers, document=np.arange(len(readings)), start=np.zeros_like(numbers), length=lengths)
        blocks = list(lay_out(packing, documents, self._row_tokens, self._padding_id))
        return {
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(np.concatenate([getattr(block, name) for block in blocks]).ravel(), pa.int32()),
                self._row_tokens,
            )
            for name in ("input_ids", "position_ids")
        }

    def _student(self, rows: Sequence[Sequence[PairedReading]]) -> dict[str, Any]:
        readings = list(chain.from_iterable(rows))
        counts = [sum(len(reading.parts.ids) for reading in row) for row in rows]
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
        columns = {
            "student_ids": [reading.parts.ids for reading in readings],
            "student_labels": [reading.parts.labels for reading in readings],
            "student_position_ids": [reading.parts.position_ids for reading in readings],
            "student_source_ids": [np.full(len(reading.parts.ids), reading.source) for reading in readings],
            "teacher_index": list(chain.from_iterable(_teacher_index(row) for row in rows)),
        }
        return {
            name: pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(values), _STUDENT[name]))
            for name, values in columns.items()
        }


def _teacher_index(row: Sequence[PairedReading]) -> list[Int[np.ndarray, " tokens"]]:
    """Return the teacher index of the tokens of every reading, counted from the beginning of the row."""
    lengths = np.array([reading.document.num_tokens for reading in row])
    starts = np.cumsum(lengths) - lengths
    indices = [reading.parts.teacher_index for reading in row]
    return [np.where(index >= 0, index + start, -1) for index, start in zip(indices, starts, strict=True)]
