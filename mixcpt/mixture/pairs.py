"""Rows of a stream whose teacher reads whole documents and whose student reads parts of them."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from mixcpt.config import ViewConfig
from mixcpt.errors import DataError
from mixcpt.mixture import cuts
from mixcpt.mixture.cuts import CutDocument, StudentParts
from mixcpt.mixture.packing import Packing, pack_whole
from mixcpt.mixture.readings import apportion, order_readings, source_generator
from mixcpt.mixture.rows import IGNORE_INDEX, DocumentTokens, lay_out
from mixcpt.mixture.tokens import TextTokenizer

_WINDOW = 1000
"""Number of documents considered at once for the space left in a row."""
_ROWS_AT_ONCE = 512
_TEACHER = ("input_ids", "position_ids")
_STUDENT = {
    "student_ids": pa.int32(),
    "student_labels": pa.int32(),
    "student_position_ids": pa.int32(),
    "student_source_ids": pa.int16(),
    "teacher_index": pa.int32(),
}
_log = logging.getLogger("mixcpt.mixture")


@dataclass(kw_only=True)
class SourceCounts:
    """Counts of the documents and tokens of one source."""

    documents: int = 0
    one_sentence_documents: int = 0
    """Number of skipped documents of one sentence: without an earlier sentence there is no context to distil."""
    too_long_documents: int = 0
    """Number of skipped documents longer than a row: after a split the teacher would lack the first part."""
    unique_tokens: int = 0
    """Number of tokens of the usable documents."""
    teacher_tokens: int = 0
    student_tokens: int = 0
    scored_tokens: int = 0


@dataclass(frozen=True)
class PairsAccount:
    """The account of a stream of pairs."""

    sources: dict[str, SourceCounts]
    num_rows: int
    target_tokens: int


@dataclass(frozen=True)
class _Reading:
    """One reading of one document by teacher and student."""

    document: CutDocument
    parts: StudentParts
    source_id: int


def write_pairs(
    path: Path,
    view: ViewConfig,
    texts: Mapping[str, Sequence[str]],
    source_ids: Mapping[str, int],
    tokenizer: TextTokenizer,
    *,
    target_tokens: int,
    row_tokens: int,
    seed: int,
) -> PairsAccount:
    """Write one record for every row of the teacher, and return the account.

    A record has the teacher's row (`input_ids`, `position_ids`; whole documents that do not see each other) and all of
    the student's parts of these documents (`student_ids`, `student_labels`, `student_position_ids`,
    `student_source_ids`), with `teacher_index`, the place of every scored token in the teacher's row.

    Args:
        path: Parquet file to write.
        view: Settings of the cuts.
        texts: Documents of every source.
        source_ids: Number of every source.
        tokenizer: Tokenizer of the model.
        target_tokens: Tokens for the teacher to read; reached only approximately, because documents are read whole.
        row_tokens: Length of a row; longer documents are skipped.
        seed: Seed of the order and the cuts; every pass cuts a document anew.

    Raises:
        DataError: If no document can be cut, or a scored token differs between teacher and student.
    """
    counts = {name: SourceCounts(documents=len(source_texts)) for name, source_texts in texts.items()}
    usable = _usable(texts, view, tokenizer, row_tokens=row_tokens, counts=counts)
    names = [name for name, documents in usable.items() if documents]
    lengths = [np.array([document.num_tokens for document in usable[name]]) for name in names]
    targets = apportion(target_tokens, {name: counts[name].unique_tokens for name in names})
    order = order_readings(names, lengths, [targets[name] for name in names], seed, whole=True)
    readings = []
    times_read: Counter[tuple[int, int]] = Counter()
    for source, index in zip(order.source.tolist(), order.document.tolist(), strict=True):
        name = names[source]
        document = usable[name][index]
        generator = source_generator(name, seed, times_read[source, index], index)
        times_read[source, index] += 1
        is_halves = view.view == "halves"
        parts = cuts.second_half(document) if is_halves else cuts.split_contexts(document, view.splits, generator)
        cuts.require_same_tokens(document, parts, name)
        readings.append(_Reading(document, parts, source_ids[name]))
        counts[name].teacher_tokens += document.num_tokens
        counts[name].student_tokens += len(parts.ids)
        counts[name].scored_tokens += int((parts.labels != IGNORE_INDEX).sum())
    row_numbers = pack_whole(order.length, row_tokens, _WINDOW)
    rows: list[list[_Reading]] = [[] for _ in range(int(row_numbers.max()) + 1)]
    for row, reading in zip(row_numbers.tolist(), readings, strict=True):
        rows[row].append(reading)
    _write_rows(path, rows, row_tokens, padding_id=tokenizer.padding_id)
    _log.info("packed %d readings with %s into %d rows", len(readings), view.view, len(rows))
    return PairsAccount(counts, len(rows), target_tokens)


def _usable(
    texts: Mapping[str, Sequence[str]],
    view: ViewConfig,
    tokenizer: TextTokenizer,
    *,
    row_tokens: int,
    counts: Mapping[str, SourceCounts],
) -> dict[str, list[CutDocument]]:
    """Count the documents and return the usable ones by source; raise `DataError` if there is none."""
    cut = cuts.cut_as_published if view.parity else cuts.cut_document
    usable: dict[str, list[CutDocument]] = {name: [] for name in texts}
    too_long = []
    for name, source_texts in texts.items():
        for document in cut(source_texts, tokenizer, view):
            if document.num_sentences < 2:
                counts[name].one_sentence_documents += 1
            elif document.num_tokens > row_tokens:
                counts[name].too_long_documents += 1
                too_long.append(document.num_tokens)
            else:
                counts[name].unique_tokens += document.num_tokens
                usable[name].append(document)
    if not any(usable.values()):
        num_short = sum(source_counts.one_sentence_documents for source_counts in counts.values())
        raise _no_usable_document(view, num_short, too_long, row_tokens)
    return usable


def _no_usable_document(view: ViewConfig, num_short: int, too_long: Sequence[int], row_tokens: int) -> DataError:
    hints = []
    if too_long:
        needed = int(np.quantile(too_long, 0.9, method="inverted_cdf"))
        share = np.mean(np.array(too_long) <= needed)
        hints.append(f"raise mixture.row_tokens to at least {needed}, which fits {share:.0%} of the long documents")
    if num_short:
        hints.append("for single sentences choose a method that reads whole texts, such as lssd")
    return DataError(
        f"view {view.view} fits none of the {num_short + len(too_long)} documents: {num_short} have one sentence only, "
        f"and {len(too_long)} are longer than a row of {row_tokens} tokens",
        "; ".join(hints) or "add a source to the domain pool, or check the records that curation removed",
    )


def _write_rows(path: Path, rows: Sequence[Sequence[_Reading]], row_tokens: int, *, padding_id: int) -> None:
    """Write the readings of every row."""
    columns = {name: pa.list_(pa.int32(), row_tokens) for name in _TEACHER}
    columns |= {name: pa.large_list(kind) for name, kind in _STUDENT.items()}
    schema = pa.schema(list(columns.items()))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            block = rows[first : first + _ROWS_AT_ONCE]
            values = _teacher_columns(block, row_tokens, padding_id) | _student_columns(block)
            writer.write_table(pa.table(values, schema=schema))


def _teacher_columns(rows: Sequence[Sequence[_Reading]], row_tokens: int, padding_id: int) -> dict[str, Any]:
    documents = [reading.document for reading in chain.from_iterable(rows)]
    numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    lengths = np.array([document.num_tokens for document in documents])
    ids = np.concatenate([document.ids for document in documents])
    unscored = np.zeros(len(ids), np.bool_)  # only the ids and positions of the teacher are used
    tokens = DocumentTokens(ids, unscored, start=np.cumsum(lengths) - lengths, source=numbers)
    packing = Packing(numbers, np.arange(len(documents)), np.zeros_like(numbers), length=lengths)
    blocks = list(lay_out(packing, tokens, row_tokens, padding_id))
    columns = {}
    for name in _TEACHER:
        values = np.concatenate([getattr(block, name) for block in blocks]).ravel()
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.int32()), row_tokens)
    return columns


def _student_columns(rows: Sequence[Sequence[_Reading]]) -> dict[str, Any]:
    readings = list(chain.from_iterable(rows))
    counts = [sum(len(reading.parts.ids) for reading in row) for row in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    columns = {
        "student_ids": [reading.parts.ids for reading in readings],
        "student_labels": [reading.parts.labels for reading in readings],
        "student_position_ids": [reading.parts.position_ids for reading in readings],
        "student_source_ids": [np.full(len(reading.parts.ids), reading.source_id) for reading in readings],
        "teacher_index": list(chain.from_iterable(map(_teacher_index, rows))),
    }
    return {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(values), _STUDENT[name]))
        for name, values in columns.items()
    }


def _teacher_index(row: Sequence[_Reading]) -> list[Int[np.ndarray, " tokens"]]:
    """Return the teacher index of the tokens of every reading, counted from the beginning of the row."""
    lengths = np.array([reading.document.num_tokens for reading in row])
    starts = np.cumsum(lengths) - lengths
    indices = [reading.parts.teacher_index for reading in row]
    return [np.where(index >= 0, index + start, -1) for index, start in zip(indices, starts, strict=True)]
