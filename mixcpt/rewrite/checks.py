"""Rules that a generated text must pass before it can be trained on; none of them needs a model.

A rule looks at one text and its passage. Numbers and names must occur in the passage, because an invented one is the
most harmful and the most easily found mistake of a generator. Copies teach nothing new.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from mixcpt.config.rewrite import FaithfulnessConfig
from mixcpt.rewrite.passages import Document
from mixcpt.rewrite.requests import Request

_NUMBER = re.compile(r"\d+(?:[.,:/\u2013-]\d+)*")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_STARTS = re.compile(r"[.!?:。！？：;|\"“”„«»()\n]+\s*|^\W+")
"""Marks after which any word may have a capital."""
_SEQUENCE = 5
"""Words of a sequence that counts as copied."""
_MIN_WORDS = 2
_REFUSALS = re.compile(r"\b(?:as an ai|i cannot|i can't|i am unable|i'm unable|i'm sorry|no passage)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rejection:
    """Why a text is not trained on."""

    rule: str
    """Name of the rule, by which rejections are counted."""
    detail: str
    """Part of the text that breaks the rule."""


@dataclass(frozen=True)
class Vocabulary:
    """Words of a corpus, which tell names from other words with a capital."""

    common: frozenset[str] = frozenset()
    """Words that the corpus writes in lower case somewhere."""
    names_of_corpus: frozenset[str] = frozenset()
    """Words that have a capital within sentences and are never in lower case."""

    @classmethod
    def of(cls, documents: Sequence[Document], more: Collection[str] = ()) -> "Vocabulary":
        """Return the vocabulary of documents and of further texts."""
        words: set[str] = set()
        within: set[str] = set()
        for text in (*(document.text for document in documents), *more):
            for word, is_first in _placed_words(text):
                words.add(word)
                if not is_first:
                    within.add(word)
        common = frozenset(word for word in words if word.islower())
        names = (word for word in within if word[0].isupper() and word.lower() not in common)
        return cls(common, frozenset(names))

    def names(self, text: str) -> Iterator[str]:
        """Yield the names in a text.

        A word with a capital is a name if the corpus does not also write it in lower case. At the start of a sentence
        it must be a name of the corpus, because any word has a capital there.
        """
        for word, is_first in _placed_words(text):
            is_name = word in self.names_of_corpus if is_first else word.lower() not in self.common
            if word[0].isupper() and is_name:
                yield word


def _placed_words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a text, and whether they are at the start of a sentence, line, label or quotation."""
    for part in filter(None, _STARTS.split(text)):
        for index, match in enumerate(_WORD.finditer(part)):
            yield match.group(), index == 0


def check(
    text: str, request: Request, *, earlier: Sequence[str], vocabulary: Vocabulary, config: FaithfulnessConfig
) -> Rejection | None:
    """Return the first rule that a text breaks; None if it passes all.

    Args:
        text: The parsed text.
        request: The request that it answers. The text may have names of the prompt, such as Student.
        earlier: Accepted texts about the same passage.
        vocabulary: Common words of the corpus.
        config: Limits of copying.
    """
    passage = request.passage.text
    rules: tuple[Callable[[], Rejection | None], ...] = (
        lambda: _form(text),
        lambda: _numbers(text, request.prompt),
        lambda: _names(text, request.prompt, vocabulary),
        lambda: _copied(text, passage, config.max_copied_fraction),
        lambda: _repeated(text, earlier, config.max_repeated_fraction),
    )
    return next(filter(None, (rule() for rule in rules)), None)


def _form(text: str) -> Rejection | None:
    words = _words(text)
    if not text.strip():
        return Rejection("empty", "")
    if refusal := _REFUSALS.search(text):
        return Rejection("refusal", refusal.group())
    if len(words) < _MIN_WORDS and len(text.strip()) < 2 * _MIN_WORDS:
        return Rejection("too short", text)
    sequences = _sequences(words)
    if len(sequences) >= 3 * _SEQUENCE and len(set(sequences)) < len(sequences) / 2:
        return Rejection("loop", text[-60:])
    return None


def _numbers(text: str, source: str) -> Rejection | None:
    known = set(map(_plain_number, _NUMBER.findall(unicodedata.normalize("NFKC", source))))
    lines = [re.sub(r"^\s*\d+[.)]\s", "", line) for line in unicodedata.normalize("NFKC", text).splitlines()]
    numbers = chain.from_iterable(map(_NUMBER.findall, lines))
    invented = [number for number in numbers if _plain_number(number) not in known]
    return Rejection("number not in the passage", invented[0]) if invented else None


def _names(text: str, source: str, vocabulary: Vocabulary) -> Rejection | None:
    known = {_stem(word) for word in _WORD.findall(source)}
    invented = next((name for name in vocabulary.names(text) if _stem(name) not in known), None)
    return Rejection("name not in the passage", invented) if invented else None


def _copied(text: str, passage: str, limit: float) -> Rejection | None:
    share = _shared(text, passage)
    return Rejection("copy of the passage", f"{share:.0%} of its word sequences") if share > limit else None


def _repeated(text: str, earlier: Sequence[str], limit: float) -> Rejection | None:
    for other in earlier:
        if (share := _shared(text, other)) > limit:
            return Rejection("copy of another text", f"{share:.0%} of its word sequences")
    return None


def _shared(text: str, other: str) -> float:
    """Return the share of a text's word sequences that another text contains; 0 for a text too short to have one."""
    sequences = _sequences(_words(text))
    known = set(_sequences(_words(other)))
    return sum(sequence in known for sequence in sequences) / len(sequences) if sequences else 0.0


def _sequences(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[index : index + _SEQUENCE]) for index in range(len(words) - _SEQUENCE + 1)]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _plain_number(number: str) -> str:
    """Return a number without separators of thousands and leading zeros: 1,000 and 1000 are equal."""
    return re.sub(r"[,.](?=\d{3}\b)", "", number).lstrip("0") or "0"


def _stem(word: str) -> str:
    return re.sub(r"['’]s?$", "", word.lower()).removesuffix("s")
