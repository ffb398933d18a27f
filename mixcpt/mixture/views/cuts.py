"""The parts of a document that the student reads: single sentences or the second half. The teacher reads all of it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mixcpt.errors import DataError
from mixcpt.mixture.rows import IGNORE_INDEX


@dataclass(frozen=True)
class CutDocument:
    """A document as the teacher reads it, with the borders of its sentences."""

    ids: Int[np.ndarray, " tokens"]
    """BOS if the model has one, the tokens of the text, and EOS if the model has one."""
    borders: Int[np.ndarray, " borders"]
    """Index in `ids` of the first token of every sentence, and the index after the last sentence."""
    student_start: Int[np.ndarray, " prefix"]
    """Unscored tokens before every part of the student: BOS, and the title if the view has it."""
    number: int
    """Index of the text within its source."""

    @property
    def num_sentences(self) -> int:
        return len(self.borders) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class StudentParts:
    """All parts of one document that the student reads, concatenated."""

    ids: Int[np.ndarray, " tokens"]
    labels: Int[np.ndarray, " tokens"]
    """Labels, not shifted: the label at t is the token at t. The first token of a part is not scored, because no token
    before it predicts it."""
    position_ids: Int[np.ndarray, " tokens"]
    """Positions, restarting at 0 in every part."""
    teacher_index: Int[np.ndarray, " tokens"]
    """Index of the same token in the teacher's document; -1 if the token is not scored."""


def split_contexts(document: CutDocument, splits: int, generator: np.random.Generator) -> StudentParts:
    """Return the last sentence and `splits` - 1 random others, but never the first (docs/algorithms.md#disc).

    A document with fewer sentences gives all except its first. It must have at least two.
    """
    last = document.num_sentences - 1
    others = generator.choice(np.arange(1, last), min(splits - 1, last - 1), replace=False)
    return _parts(document, [(int(index), int(index) + 1) for index in [*np.sort(others), last]])


def second_half(document: CutDocument) -> StudentParts:
    """Return the sentences after the border that is nearest to the middle of the tokens (arXiv 2503.08727).

    The document must have at least two sentences.
    """
    inner = document.borders[1:-1]
    middle = (document.borders[0] + document.borders[-1]) / 2
    return _parts(document, [(int(np.abs(inner - middle).argmin()) + 1, document.num_sentences)])


def require_same_tokens(document: CutDocument, parts: StudentParts, source: str) -> None:
    """Raise `DataError` if a scored token of the student differs from the teacher's; the method requires equal tokens.

    Args:
        document: The document of the teacher.
        parts: The parts of the student.
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
    """Return the parts between pairs of sentences: from the first to before the second."""
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
