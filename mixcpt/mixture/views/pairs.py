"""Rows of a stream whose teacher reads whole documents and whose student reads parts of them."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mixcpt.config import ViewConfig
from mixcpt.errors import DataError
from mixcpt.mixture.readings import Readings, apportion, order_readings, source_generator
from mixcpt.mixture.rows import IGNORE_INDEX
from mixcpt.mixture.tokens import TextTokenizer
from mixcpt.mixture.views.cuts import CutDocument, StudentParts, require_same_tokens, second_half, split_contexts
from mixcpt.mixture.views.pair_rows import PairedReading, PairWriter
from mixcpt.mixture.views.segments import pack_whole
from mixcpt.mixture.views.tokenized import cut_document, cut_document_as_published

_WINDOW = 1000
"""Number of documents considered at once for the space left in a row."""
_ROWS_AT_ONCE = 512
_log = logging.getLogger("mixcpt.mixture")


@dataclass(kw_only=True)
class SourceCounts:
    """Counts of the documents and tokens of one source."""

    documents: int = 0
    one_sentence_documents: int = 0
    """Number of skipped documents of one sentence: without an earlier sentence there is no context to distil."""
    too_long_documents: int = 0
    """Number of skipped documents longer than a row: after a split the teacher would lack the first part."""
    readings: int = 0
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
    usable, too_long = _usable(texts, view, tokenizer, row_tokens=row_tokens, counts=counts)
    if not any(usable.values()):
        raise _no_usable_document(counts, too_long, view, row_tokens)
    names = [name for name, documents in usable.items() if documents]
    lengths = [np.array([document.num_tokens for document in usable[name]]) for name in names]
    readings = _order(names, lengths, target_tokens, seed)
    documents_read = list(zip(readings.source.tolist(), readings.document.tolist(), strict=True))
    paired = []
    for (source, index), pass_number in zip(documents_read, _pass_numbers(documents_read), strict=True):
        document = usable[names[source]][index]
        generator = source_generator(names[source], seed, pass_number, index)
        parts = _cut(view, document, names[source], generator)
        paired.append(PairedReading(document, parts, source_ids[names[source]]))
        _count(counts[names[source]], document, parts)
    rows = pack_whole(readings.length, row_tokens, _WINDOW)
    num_rows = int(rows.max()) + 1
    with PairWriter(path, row_tokens, tokenizer.padding_id) as writer:
        for first in range(0, num_rows, _ROWS_AT_ONCE):
            by_row = _by_row(rows, first, min(first + _ROWS_AT_ONCE, num_rows))
            writer.write([[paired[reading] for reading in row_readings] for row_readings in by_row])
    _log.info("packed %d readings with %s into %d rows", len(paired), view.view, num_rows)
    return PairsAccount(counts, num_rows, target_tokens)


def _usable(
    texts: Mapping[str, Sequence[str]],
    view: ViewConfig,
    tokenizer: TextTokenizer,
    *,
    row_tokens: int,
    counts: Mapping[str, SourceCounts],
) -> tuple[dict[str, list[CutDocument]], list[int]]:
    """Count the documents, and return the usable ones by source and the lengths of the ones that are too long."""
    cut = cut_document_as_published if view.parity else cut_document
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
    return usable, too_long


def _no_usable_document(
    counts: Mapping[str, SourceCounts], too_long: Sequence[int], view: ViewConfig, row_tokens: int
) -> DataError:
    short = sum(source_counts.one_sentence_documents for source_counts in counts.values())
    hints = []
    if too_long:
        needed = int(np.quantile(too_long, 0.9, method="inverted_cdf"))
        share = np.mean(np.array(too_long) <= needed)
        hints.append(f"raise mixture.row_tokens to at least {needed}, which fits {share:.0%} of the long documents")
    if short:
        hints.append("for single sentences choose a method that reads whole texts, such as lssd")
    return DataError(
        f"view {view.view} fits none of the {short + len(too_long)} documents: {short} have one sentence only, and "
        f"{len(too_long)} are longer than a row of {row_tokens} tokens",
        "; ".join(hints) or "add a source to the domain pool, or check the records that curation removed",
    )


def _order(names: Sequence[str], lengths: Sequence[Int[np.ndarray, " _"]], target_tokens: int, seed: int) -> Readings:
    available = {name: int(source_lengths.sum()) for name, source_lengths in zip(names, lengths, strict=True)}
    shares = apportion(target_tokens, available)
    return order_readings(names, lengths, [shares[name] for name in names], seed, whole=True)


def _pass_numbers(documents: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield for every reading how often its document was read before."""
    times_read: Counter[tuple[int, int]] = Counter()
    for document in documents:
        yield times_read[document]
        times_read[document] += 1


def _cut(view: ViewConfig, document: CutDocument, source: str, generator: np.random.Generator) -> StudentParts:
    is_halves = view.view == "halves"
    parts = second_half(document) if is_halves else split_contexts(document, view.splits, generator)
    require_same_tokens(document, parts, source)
    return parts


def _count(counts: SourceCounts, document: CutDocument, parts: StudentParts) -> None:
    counts.readings += 1
    counts.teacher_tokens += document.num_tokens
    counts.student_tokens += len(parts.ids)
    counts.scored_tokens += int((parts.labels != IGNORE_INDEX).sum())


def _by_row(rows: Int[np.ndarray, " readings"], first: int, last: int) -> list[list[int]]:
    """Return the readings of every row from `first` to before `last`, in their order."""
    order = np.argsort(rows, kind="stable")
    borders = np.searchsorted(rows[order], np.arange(first, last + 1))
    return [order[begin:end].tolist() for begin, end in pairwise(borders)]
