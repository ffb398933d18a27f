"""Rows of a stream whose teacher knows more than its student: whole documents, and beside them the student's parts."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mixcpt.config import ViewConfig
from mixcpt.errors import DataError
from mixcpt.mixture.readings import Readings, apportion, plan_readings, source_generator
from mixcpt.mixture.rows import IGNORE_INDEX
from mixcpt.mixture.tokens import TextTokenizer
from mixcpt.mixture.views.cuts import CutDocument, StudentParts, require_same_tokens, second_half, split_contexts
from mixcpt.mixture.views.pair_rows import PairedReading, PairWriter
from mixcpt.mixture.views.segments import pack_whole
from mixcpt.mixture.views.tokenized import cut_document, cut_document_as_published

_WINDOW = 1000
"""Documents that are considered at once for the space left in a row."""
_ROWS_AT_ONCE = 512
_log = logging.getLogger("mixcpt.mixture")


@dataclass
class SourceCounts:
    """What became of a source's documents."""

    documents: int = 0
    one_sentence_documents: int = 0
    """Skipped: without a sentence before it the last one has no context to distil."""
    too_long_documents: int = 0
    """Skipped: they would have to be split, which takes from the teacher what it has read."""
    readings: int = 0
    unique_tokens: int = 0
    """Of the documents that are read."""
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
    """Writes one record for each row of the teacher, and returns the account.

    A record has the teacher's row (`input_ids`, `position_ids`; whole documents that do not see each other) and all of
    the student's parts of these documents (`student_ids`, `student_labels`, `student_position_ids`,
    `student_source_ids`), with `teacher_index`, the place in the teacher's row of every token that is scored.

    Args:
        path: Parquet file to write.
        view: How documents are cut.
        texts: Documents of each source.
        source_ids: Number of each source.
        tokenizer: Of the model.
        target_tokens: Tokens that the teacher reads; documents are read whole, so it is met only nearly.
        row_tokens: Length of a row, in which a document has to fit.
        seed: Seed of order and cuts; in every pass a document is cut anew.

    Raises:
        DataError: If no document can be cut, or a scored token is not the same to teacher and student.
    """
    counts = {name: SourceCounts(documents=len(of)) for name, of in texts.items()}
    too_long: list[int] = []
    usable = {name: _usable(of, view, tokenizer, row_tokens, counts[name], too_long) for name, of in texts.items()}
    _require_documents(counts, usable, too_long, view, row_tokens)
    names = [name for name, documents in usable.items() if documents]
    lengths = [np.array([document.num_tokens for document in usable[name]]) for name in names]
    readings = _plan(names, lengths, target_tokens, seed)
    places = list(zip(readings.source.tolist(), readings.document.tolist(), strict=True))
    documents = [usable[names[source]][document] for source, document in places]
    parts = [
        _cut(view, whole, names[source], source_generator(names[source], seed, number, document))
        for whole, (source, document), number in zip(documents, places, _passes(places), strict=True)
    ]
    _count(counts, names, readings, parts)
    rows = pack_whole(readings.length, row_tokens, _WINDOW)
    sources = np.array([source_ids[names[source]] for source in readings.source])
    num_rows = int(rows.max()) + 1
    with PairWriter(path, row_tokens, tokenizer.padding_id) as writer:
        for first in range(0, num_rows, _ROWS_AT_ONCE):
            writer.write(
                [
                    [PairedReading(documents[reading], parts[reading], int(sources[reading])) for reading in of_row]
                    for of_row in _by_row(rows, first, min(first + _ROWS_AT_ONCE, num_rows))
                ]
            )
    _log.info("packed %d readings with %s into %d rows", len(parts), view.view, num_rows)
    return PairsAccount(counts, num_rows, target_tokens)


def _usable(
    texts: Sequence[str],
    view: ViewConfig,
    tokenizer: TextTokenizer,
    row_tokens: int,
    counts: SourceCounts,
    too_long: list[int],
) -> list[CutDocument]:
    """Returns the documents that can be cut and fit into a row, counts the others and notes how long the long are."""
    cut = cut_document_as_published if view.parity else cut_document
    usable = []
    for document in cut(texts, tokenizer, view):
        if document.num_sentences < 2:
            counts.one_sentence_documents += 1
        elif document.num_tokens > row_tokens:
            counts.too_long_documents += 1
            too_long.append(document.num_tokens)
        else:
            counts.unique_tokens += document.num_tokens
            usable.append(document)
    return usable


def _require_documents(
    counts: Mapping[str, SourceCounts],
    usable: Mapping[str, list[CutDocument]],
    too_long: list[int],
    view: ViewConfig,
    row_tokens: int,
) -> None:
    if any(usable.values()):
        return
    short = sum(of.one_sentence_documents for of in counts.values())
    hints = []
    if too_long:
        needed = int(np.quantile(too_long, 0.9, method="inverted_cdf"))
        share = np.mean(np.array(too_long) <= needed)
        hints.append(f"raise mixture.row_tokens to at least {needed}, which takes {share:.0%} of the long documents")
    if short:
        hints.append("for single sentences choose a method that reads whole texts, such as lssd")
    raise DataError(
        f"view {view.view} fits none of the {short + len(too_long)} documents: {short} have one sentence only, and "
        f"{len(too_long)} are longer than a row of {row_tokens} tokens",
        "; ".join(hints) or "give the domain pool a source, or look at what curation quarantined and removed",
    )


def _plan(names: Sequence[str], lengths: Sequence[Int[np.ndarray, " _"]], target_tokens: int, seed: int) -> Readings:
    shares = apportion(target_tokens, {name: int(of.sum()) for name, of in zip(names, lengths, strict=True)})
    return plan_readings(names, lengths, [shares[name] for name in names], seed, whole=True)


def _passes(places: Sequence[tuple[int, int]]) -> list[int]:
    """Returns how often the document of each reading has been read before."""
    seen: Counter[tuple[int, int]] = Counter()
    numbers = []
    for place in places:
        numbers.append(seen[place])
        seen[place] += 1
    return numbers


def _cut(view: ViewConfig, document: CutDocument, source: str, generator: np.random.Generator) -> StudentParts:
    is_halves = view.view == "halves"
    parts = second_half(document) if is_halves else split_contexts(document, view.splits, generator)
    require_same_tokens(document, parts, source)
    return parts


def _count(
    counts: Mapping[str, SourceCounts], names: Sequence[str], readings: Readings, parts: Sequence[StudentParts]
) -> None:
    for source, length, part in zip(readings.source, readings.length, parts, strict=True):
        of = counts[names[source]]
        of.readings += 1
        of.teacher_tokens += int(length)
        of.student_tokens += len(part.ids)
        of.scored_tokens += int((part.labels != IGNORE_INDEX).sum())


def _by_row(rows: Int[np.ndarray, " readings"], first: int, last: int) -> list[list[int]]:
    """Returns the readings of each row from `first` to before `last`, in their order."""
    order = np.argsort(rows, kind="stable")
    borders = np.searchsorted(rows[order], np.arange(first, last + 1))
    return [order[begin:end].tolist() for begin, end in pairwise(borders)]
