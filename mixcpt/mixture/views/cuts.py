"""What the student is given of a document of which the teacher reads all: single sentences, or the second half."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mixcpt.errors import DataError
from mixcpt.mixture.rows import IGNORE_INDEX


@dataclass(frozen=True)
class CutDocument:
    """A document as the teacher reads it, and where its sentences begin."""

    ids: Int[np.ndarray, " tokens"]
    """BOS where the model has one, the text's tokens, EOS likewise."""
    borders: Int[np.ndarray, " borders"]
    """Index in `ids` of each sentence's first token, and of what follows the last sentence."""
    student_start: Int[np.ndarray, " prefix"]
    """What stands before every part of the student, unscored: BOS, and a title where that is asked for."""
    number: int
    """Index of its text among those of its source."""

    @property
    def num_sentences(self) -> int:
        return len(self.borders) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class StudentParts:
    """What the student reads, one part behind the other."""

    ids: Int[np.ndarray, " tokens"]
    labels: Int[np.ndarray, " tokens"]
    """Not shifted: the label at t is the token at t. A part's first token is never scored, for nothing predicts it."""
    position_ids: Int[np.ndarray, " tokens"]
    """Restart at 0 in each part."""
    teacher_index: Int[np.ndarray, " tokens"]
    """Where in the teacher's document the very same token stands; -1 where it is not scored."""


def split_contexts(document: CutDocument, splits: int, generator: np.random.Generator) -> StudentParts:
    """Return the last sentence and `splits` - 1 random others, but never the first (docs/algorithms.md#disc).

    A document of fewer sentences gives all but its first. There must be at least two.
    """
    last = document.num_sentences - 1
    others = generator.choice(np.arange(1, last), min(splits - 1, last - 1), replace=False)
    return _parts(document, [(int(index), int(index) + 1) for index in [*np.sort(others), last]])


def second_half(document: CutDocument) -> StudentParts:
    """Returns everything from the border that is nearest to the middle of the tokens (arXiv 2503.08727).

    There must be at least two sentences.
    """
    inner = document.borders[1:-1]
    middle = (document.borders[0] + document.borders[-1]) / 2
    return _parts(document, [(int(np.abs(inner - middle).argmin()) + 1, document.num_sentences)])


def require_same_tokens(document: CutDocument, parts: StudentParts, source: str) -> None:
    """Raises `DataError` where a scored token is not the same to teacher and student: all of the method depends on it.

    Args:
        document: What the teacher reads.
        parts: What the student reads of it.
        source: Name of the document's source.
    """
    scored = parts.teacher_index >= 0
    same = document.ids[parts.teacher_index[scored]] == parts.labels[scored]
    if not same.all() or not np.array_equal(scored, parts.labels != IGNORE_INDEX):
        raise DataError(
            f"document {document.number} of source {source}: teacher and student have different tokens at the same "
            "place",
            "please report the tokenizer",
        )


def _parts(document: CutDocument, spans: list[tuple[int, int]]) -> StudentParts:
    """Returns the parts that reach from one sentence to before another."""
    borders = document.borders.tolist()
    pieces = [_part(document, borders[first], borders[end]) for first, end in spans]
    return StudentParts(*(np.concatenate(columns).astype(np.int32) for columns in zip(*pieces, strict=True)))


def _part(document: CutDocument, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    before = document.student_start
    ids = np.concatenate([before, document.ids[start:end]])
    is_scored = np.arange(len(ids)) >= max(len(before), 1)
    index = np.arange(len(ids)) + start - len(before)
    labels = np.where(is_scored, ids, IGNORE_INDEX)
    return ids, labels, np.arange(len(ids)), np.where(is_scored, index, -1)
