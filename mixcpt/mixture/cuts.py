"""Cut documents into sentences, and into the parts that the student reads. The teacher reads the whole document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mixcpt.config import ViewConfig
from mixcpt.errors import DataError
from mixcpt.mixture.rows import IGNORE_INDEX
from mixcpt.mixture.tokens import EncodedText, TextTokenizer

_MAX_TITLE_TOKENS = 20
_BATCH = 500


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


def sentence_ends(text: str, language: str = "en") -> list[int]:
    """Return the index after the last character of every sentence; the last one is the length of the text.

    White space between two sentences belongs to the second, because most tokenizers put it at the beginning of a token.
    `language` is an ISO 639-1 code; it decides the list of abbreviations.
    """
    from sentencex import get_sentence_boundaries  # a compiled library that only these views need

    ends = []
    for boundary in get_sentence_boundaries(language, text):
        sentence = text[boundary["start_index"] : boundary["end_index"]]
        if content := sentence.rstrip():
            ends.append(boundary["start_index"] + len(content))
    return [*ends[:-1], len(text)]


def token_runs(starts: Int[np.ndarray, " tokens"], ends: list[int]) -> Int[np.ndarray, " borders"]:
    """Return the index of the first token of every sentence, followed by the number of tokens.

    A token belongs to the sentence in which it begins; a sentence without such a token is joined to the one before it.
    Some tokenizers leave spaces out of their offsets; a space at the end of the text then begins after it and belongs
    to the last sentence. `starts` are the first characters of the tokens; `ends` is the result of `sentence_ends`.
    """
    ordered = np.maximum.accumulate(starts) if len(starts) else starts
    sentence = np.searchsorted(ends[:-1], ordered, side="right")
    changes = np.flatnonzero(np.diff(sentence)) + 1
    return np.concatenate([[0], changes, [len(starts)]]).astype(np.int64)


def cut_document(texts: Sequence[str], tokenizer: TextTokenizer, view: ViewConfig) -> Iterator[CutDocument]:
    """Yield the texts, tokenised as a whole; the offsets of the tokens assign them to sentences.

    Teacher and student then have the same tokens by construction, however the tokenizer handles white space.
    """
    bos, eos = tokenizer.bos, tokenizer.eos
    for first in range(0, len(texts), _BATCH):
        batch = texts[first : first + _BATCH]
        for number, (text, encoded) in enumerate(zip(batch, tokenizer.encode(batch), strict=True), first):
            borders = token_runs(encoded.starts, sentence_ends(text, view.language))
            title = _title(text, encoded) if view.student_context == "title" else encoded.ids[:0]
            # Remove borders within the title: the student reads the title before every part.
            borders = borders[(borders == 0) | (borders >= len(title))] + len(bos)
            yield CutDocument(_joined(bos, encoded.ids, eos), borders, _joined(bos, title), number)


def cut_as_published(texts: Sequence[str], tokenizer: TextTokenizer, view: ViewConfig) -> Iterator[CutDocument]:
    """Yield the texts as sentences that are tokenised separately and joined (docs/algorithms.md#disc, parity).

    The white space between sentences is lost, and most tokenizers then encode their first words differently.
    """
    for number, text in enumerate(texts):
        ends = sentence_ends(text, view.language)
        sentences = [text[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]
        encoded_sentences = tokenizer.encode([sentence for sentence in sentences if sentence])
        pieces = [encoded.ids for encoded in encoded_sentences if len(encoded.ids)]
        borders = np.cumsum([len(tokenizer.bos), *(len(piece) for piece in pieces)])
        title = pieces[0][:0] if pieces else np.empty(0, np.int32)
        yield CutDocument(_joined(tokenizer.bos, *pieces, tokenizer.eos), borders, title, number)


def _title(text: str, encoded: EncodedText) -> Int[np.ndarray, " tokens"]:
    """Return the tokens of the first line if it is short and another line follows; none otherwise."""
    line, newline, _ = text.partition("\n")
    title = encoded.ids[encoded.starts < len(line.rstrip())]
    return title if newline and len(title) <= _MAX_TITLE_TOKENS else title[:0]


def _joined(*parts: Int[np.ndarray, " _"] | list[int]) -> Int[np.ndarray, " tokens"]:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


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
    """Raise `DataError` if a scored token of the student differs from the teacher's: the method needs equal tokens."""
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
    before = document.student_start
    pieces = []
    for first, end in spans:
        start = document.borders[first]
        ids = np.concatenate([before, document.ids[start : document.borders[end]]])
        positions = np.arange(len(ids))
        is_scored = positions >= max(len(before), 1)
        teacher_index = np.where(is_scored, positions + start - len(before), -1)
        pieces.append((ids, np.where(is_scored, ids, IGNORE_INDEX), positions, teacher_index))
    return StudentParts(*(np.concatenate(columns).astype(np.int32) for columns in zip(*pieces, strict=True)))
