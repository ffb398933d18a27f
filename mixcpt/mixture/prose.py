"""The plain sentences of a raw document, by paragraph, without headings, lists, tables, code and damaged text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mixcpt.mixture.views.sentences import sentence_ends

_MAX_SENTENCE_CHARACTERS = 300
_MAX_TITLE_CHARACTERS = 100
_WRAPPED_CHARACTERS = range(50, 101)
"""Lengths of lines that may have been wrapped. A longer line is a paragraph, a shorter one a title."""

_NOT_PROSE = re.compile(r"\s{4}|\t|[#*|>=~`+-]|\d+[.)]\s")
"""Beginning of a line of a heading, a list, a table or code."""
_PLAIN = re.compile(r"[^\W\d_a-z][^`|{}<>=*_#\\/\n]*[^\W_][)”\"]?\.$")
"""Text from a capital letter to a full stop after a word, without characters of markup, code or addresses."""
_TORN = re.compile(r"\(\s|\(\)|\(credit|\s[,.;]|[a-z]\.[A-Z]|\.\.|\s[-–—]\s|:.*:")
"""Traces of removed figures, references and spaces."""
_VERB = re.compile(
    r"(?<!-)\b(?:is|are|was|were|be|been|has|have|had|do|does|did|can|could|may|might|will|would|shall|should|must|"
    r"\w{2,}ed|gives?|says?|makes?|uses?|causes?|contains?|forms?|includes?|provides?|occurs?|produces?|allows?|helps?|"
    r"becomes?|became|needs?|begins?|began|takes?|took|gets?|goes|went|comes?|came|consists?|leads?|led|requires?|"
    r"remains?|shows?|acts?|carry|carries|moves?|changes?|keeps?|means?|lies|holds?|connects?|increases?|decreases?)\b"
)
"""The most frequent finite verbs; a line without one is probably a heading or the title of a reference."""
_GLOSSARY = re.compile(r"(?P<term>[^\W\d_A-Z][\w ’'-]{2,40}): (?P<meaning>[^\W\d_A-Z][^:|]{20,250})$")
_MIN_TERMS = 4
"""Minimum number of such lines in a glossary; fewer are probably something else with a colon."""
_BARE_TITLE = re.compile(r"(?i)(?:introduction|overview|summary|abstract|contents|chapter|section|part|figure|table)\b")
"""Titles that name a part of the text instead of its subject."""


@dataclass(frozen=True)
class Prose:
    """The content of a document, without its markup."""

    title: str | None
    """First line of the document if it is short and other text follows."""
    paragraphs: list[list[str]]
    """Sentences in order; some are not plain."""
    glossary: list[tuple[str, str]]
    """Terms and their meanings, from lines of the form "term: meaning"."""


def read_prose(text: str) -> Prose:
    """Return the title, the sentences and the glossary of a document, in time linear in its length."""
    lines = text.splitlines()
    title = _title(lines)
    body = lines[1:] if title else lines
    return Prose(title, [_sentences(paragraph) for paragraph in _paragraphs(body)], _glossary(body))


def is_plain(sentence: str) -> bool:
    """Return whether this is one complete declarative sentence of ordinary length, without markup or damage."""
    return (
        len(sentence) <= _MAX_SENTENCE_CHARACTERS
        and bool(_PLAIN.match(sentence))
        and bool(_VERB.search(sentence))
        and not _TORN.search(sentence)
        and sentence.count("(") == sentence.count(")")
        and sentence.count("“") == sentence.count("”")
        and sentence.count('"') % 2 == 0
        and sentence.count(" ") >= 2
    )


def _title(lines: list[str]) -> str | None:
    if len(lines) < 2 or (lines[1].strip() and len(lines[0]) in _WRAPPED_CHARACTERS):
        return None
    title = lines[0].lstrip("# ").strip()
    is_short = 3 <= len(title) <= _MAX_TITLE_CHARACTERS
    return title if is_short and title[-1].isalnum() and ": " not in title and not _BARE_TITLE.match(title) else None


def _glossary(lines: list[str]) -> list[tuple[str, str]]:
    terms = [(match["term"], match["meaning"].rstrip(".")) for line in lines if (match := _GLOSSARY.match(line))]
    return terms if len(terms) >= _MIN_TERMS else []


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Yield the paragraphs of running text, with wrapped lines joined."""
    paragraph: list[str] = []
    for line in [*lines, ""]:  # the empty line ends the last paragraph
        is_prose = bool(line.strip()) and not _NOT_PROSE.match(line)
        if paragraph and not (is_prose and _was_wrapped(paragraph[-1], line)):
            yield " ".join(paragraph)
            paragraph = []
        if is_prose:
            paragraph.append(line.strip())


def _was_wrapped(line: str, following: str) -> bool:
    return len(line) in _WRAPPED_CHARACTERS and (following[0].islower() or line[-1] not in ".!?:")


def _sentences(paragraph: str) -> list[str]:
    ends = sentence_ends(paragraph)
    return [paragraph[start:end].strip() for start, end in pairwise([0, *ends])]
