"""Split a document into sentences and assign its tokens to them."""

import numpy as np
from jaxtyping import Int


def sentence_ends(text: str, language: str = "en") -> list[int]:
    """Return the index after the last character of every sentence; the last one is the length of the text.

    White space between two sentences belongs to the second, because most tokenizers put it at the beginning of a token.

    Args:
        text: A document.
        language: ISO 639-1 code; it decides the list of abbreviations.
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
    to the last sentence.

    Args:
        starts: Index of the first character of every token.
        ends: Result of `sentence_ends`.
    """
    ordered = np.maximum.accumulate(starts) if len(starts) else starts
    sentence = np.searchsorted(ends[:-1], ordered, side="right")
    changes = np.flatnonzero(np.diff(sentence)) + 1
    return np.concatenate([[0], changes, [len(starts)]]).astype(np.int64)
