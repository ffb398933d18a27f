"""Count the text that a tokenizer cannot represent: characters that decoding does not give back."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_EXAMPLES = 8
_ACCENTS = range(0x0300, 0x0370)
"""Combining accents of Latin, Greek and Cyrillic; vowel signs of other scripts are letters and are not among them."""
_BLOCK = 20_000
"""Characters that are compared at once."""


@dataclass(kw_only=True)
class LostText:
    """Number of characters of texts, without white space and control characters, and the lost ones."""

    characters: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Lost characters with their number; case and accents are not compared."""
    changed: int = 0
    """Number of characters that come back with another case or without their accent."""

    @property
    def share(self) -> float:
        """Fraction of the characters that the tokenizer loses."""
        return self.lost.total() / self.characters if self.characters else 0.0

    @property
    def changed_share(self) -> float:
        """Fraction of the characters that come back with another case or without their accent."""
        return self.changed / self.characters if self.characters else 0.0

    @property
    def examples(self) -> str:
        """Most frequent lost characters, separated by spaces."""
        return " ".join(character for character, _ in self.lost.most_common(_NUM_EXAMPLES))


def lost_share(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> float:
    """Return the fraction of the characters of texts that encoding and decoding lose."""
    return lost_text(tokenizer, texts).share


def lost_text(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> LostText:
    """Return the characters that encoding and decoding lose.

    Unicode forms, white space and the order of characters are not compared, because many tokenizers normalise text on
    purpose. An unknown token stands for lost characters. Special tokens in a text are read as text.
    """
    result = LostText()
    for text in texts:
        characters = iter(text)
        while block := "".join(islice(characters, _BLOCK)):
            _compare(block, _given_back(tokenizer, block), result)
    return result


def _given_back(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    known = [token for token in ids if token != tokenizer.unk_token_id]
    return str(tokenizer.decode(known, clean_up_tokenization_spaces=False))


def _compare(text: str, given_back: str, result: LostText) -> None:
    before, after = _visible(text), _visible(given_back)
    result.characters += before.total()
    lost = _folded(before) - _folded(after)
    for character, number in (before - after).items():
        num_lost = min(number, max(lost[part] for part in _parts(character)))
        lost -= Counter(dict.fromkeys(_parts(character), num_lost))
        result.lost += Counter({character: num_lost})
        result.changed += number - num_lost


def _visible(text: str) -> Counter[str]:
    """Return the characters of a text in compatibility form, without white space and control characters."""
    counts = Counter(unicodedata.normalize("NFKC", text))
    return Counter({character: number for character, number in counts.items() if _is_visible(character)})


def _is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf")


def _folded(characters: Counter[str]) -> Counter[str]:
    folded: Counter[str] = Counter()
    for character, number in characters.items():
        folded.update(dict.fromkeys(_parts(character), number))
    return folded


def _parts(character: str) -> list[str]:
    """Return a character without case and accents; the parts of a composed one."""
    parts = unicodedata.normalize("NFKD", character.casefold())
    return [part for part in parts if ord(part) not in _ACCENTS] or list(parts)
