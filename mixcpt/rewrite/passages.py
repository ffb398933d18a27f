"""Passages of the documents: the subjects of the requests to a generator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mixcpt.mixture.cuts import sentence_ends


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training document of the domain."""

    id: str
    source: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A document, or a part of a long one."""

    document: Document
    number: int
    """Place in the document, from 0."""
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of title and text; the place in the document does not matter, so moved text is not rewritten."""
        return sha256(f"{self.document.title}\0{self.text}".encode()).hexdigest()


def cut_passages(documents: Sequence[Document], length: int, overlap: int) -> Iterator[Passage]:
    """Yield the passages of all documents, in order.

    Args:
        documents: Documents of any length.
        length: Maximum characters of a passage. A longer sentence is cut inside.
        overlap: Characters at the end of a passage that the next one repeats, rounded to whole sentences.
    """
    for document in documents:
        for number, text in enumerate(_parts(document.text, length, overlap)):
            yield Passage(document=document, number=number, text=text)


def _parts(text: str, length: int, overlap: int) -> Iterator[str]:
    if len(text) <= length:
        yield text
        return
    ends = _short_ends(text, length)
    start, first = 0, 0
    while first < len(ends):
        last = first
        while last + 1 < len(ends) and ends[last + 1] - start <= length:
            last += 1
        yield text[start : ends[last]].strip()
        if last + 1 == len(ends):
            return
        repeated = [index for index in range(first + 1, last + 1) if ends[last] - ends[index - 1] <= overlap]
        first = repeated[0] if repeated and ends[last + 1] - ends[repeated[0] - 1] <= length else last + 1
        start = ends[first - 1]


def _short_ends(text: str, length: int) -> list[int]:
    """Return the ends of the sentences of a text, with further ends inside a sentence that is longer than a passage."""
    ends: list[int] = []
    start = 0
    for end in sentence_ends(text):
        ends += range(start + length, end, length)
        ends.append(end)
        start = end
    return ends
