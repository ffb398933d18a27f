"""Tokenise texts into documents that can be cut: as a whole, or by sentence as in the published method."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from mixcpt.config import ViewConfig
from mixcpt.mixture.tokens import EncodedText, TextTokenizer
from mixcpt.mixture.views.cuts import CutDocument
from mixcpt.mixture.views.sentences import sentence_ends, token_runs

_MAX_TITLE_TOKENS = 20
_BATCH = 500


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


def cut_document_as_published(
    texts: Sequence[str], tokenizer: TextTokenizer, view: ViewConfig
) -> Iterator[CutDocument]:
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
