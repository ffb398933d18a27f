"""A document as sentences, and its tokens by the sentence in which they begin."""

import numpy as np
from jaxtyping import Int


def sentence_ends(text: str, language: str = "en") -> list[int]:
    """Returns the character index behind each sentence; the last is the text's length.

    White space between two sentences belongs to the second, because most tokenizers begin their words with it.

    Args:
        text: A document.
        language: ISO 639-1 code, for abbreviations and the like.
    """
    from sentencex import get_sentence_boundaries  # a compiled library that only these views need

    ends = []
    for boundary in get_sentence_boundaries(language, text):
        sentence = text[boundary["start_index"] : boundary["end_index"]]
        if content := sentence.rstrip():
            ends.append(boundary["start_index"] + len(content))
    return [*ends[:-1], len(text)]


def token_runs(starts: Int[np.ndarray, " tokens"], ends: list[int]) -> Int[np.ndarray, " borders"]:
    """Returns the index of each sentence's first token, and the number of tokens behind them.

    A token belongs to the sentence in which it begins; a sentence in which none does is part of the one before it.
    Some tokenizers leave spaces out of their offsets, so that one at the text's end begins behind it: it belongs to the
    last sentence.

    Args:
        starts: Character index at which each token begins.
        ends: As `sentence_ends` returns them.
    """
    ordered = np.maximum.accumulate(starts) if len(starts) else starts
    sentence = np.searchsorted(ends[:-1], ordered, side="right")
    changes = np.flatnonzero(np.diff(sentence)) + 1
    return np.concatenate([[0], changes, [len(starts)]]).astype(np.int64)
