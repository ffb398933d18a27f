"""Hold out passages of a long document, for pools that have too few documents to hold out whole ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate

from mixcpt.curation.records import Record
from mixcpt.curation.steps import split_heldout

_BORDERS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"[.!?]\s+|[。！？]"))
"""Ends of paragraphs, lines and sentences; a document is split at the first kind that it has often enough."""
_MIN_PIECES = 4
_MIN_TEXT = 500
"""Characters of a document below which no passage is taken from it."""
_WANTED_TEXT = 1_000.0
"""Characters of held-out text to reach, even if that is more than the fraction of the settings."""
_MAX_SHARE = 0.2
"""Share of a pool that is held out at most to reach `_WANTED_TEXT`."""
_PASSAGE = 200
"""Characters of a passage from which on it is not joined with the next one."""
_MIN_DOCUMENTS = 5
"""Number of documents from which on a whole one is held out if none can be split."""


@dataclass(frozen=True)
class Passages:
    """A pool of which passages, or one document, are held out."""

    training: list[Record]
    heldout: list[Record]


def hold_out(records: Sequence[Record], fraction: float, seed: int) -> Passages:
    """Hold out whole documents of a pool; passages, if it has too few documents."""
    training, heldout = split_heldout(records, fraction, seed)
    return Passages(training, heldout) if heldout else hold_out_passages(records, fraction, seed)


def hold_out_passages(records: Sequence[Record], fraction: float, seed: int) -> Passages:
    """Hold out a contiguous part of the longest document, as passages; else one of at least five documents.

    The place of the part depends on the seed and the text. Nothing is held out of less text.
    """
    longest = max(records, key=lambda record: len(record.text), default=None)
    if longest is None or not fraction:
        return Passages(list(records), [])
    total = sum(len(record.text) for record in records)
    wanted = max(fraction * total, min(_WANTED_TEXT, _MAX_SHARE * total))
    pieces = _pieces(longest.text)
    if len(longest.text) >= _MIN_TEXT and len(pieces) >= _MIN_PIECES:
        first, end = _window(pieces, min(wanted, len(longest.text) / 2), _draw(longest, seed))
        learned, heldout = _parts(longest, pieces, first, end)
        place = records.index(longest)
        return Passages([*records[:place], *learned, *records[place + 1 :]], heldout)
    if len({record.texts for record in records}) >= _MIN_DOCUMENTS:
        drawn = min(records, key=lambda record: _draw(record, seed))
        heldout = [record for record in records if record.texts == drawn.texts]
        return Passages([record for record in records if record.texts != drawn.texts], heldout)
    return Passages(list(records), [])


def cut(text: str, characters: int) -> list[str]:
    """Return a text as passages of whole paragraphs, lines or sentences, each with at least this many characters."""
    passages = _joined(_pieces(text), characters)
    if len(passages) > 1 and len(passages[-1]) < characters:
        passages[-2:] = ["".join(passages[-2:])]
    return [passage.strip() for passage in passages if passage.strip()]


def _joined(pieces: Sequence[str], characters: int) -> list[str]:
    """Return consecutive pieces, joined until they have this many characters; the last ones can have fewer."""
    passages = [""]
    for piece in pieces:
        if len(passages[-1]) >= characters:
            passages.append("")
        passages[-1] += piece
    return passages


def _pieces(text: str) -> list[str]:
    """Return the paragraphs of a text, else its lines, else its sentences; joined, they are the text."""
    pieces = [text]
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(text)]
        places = zip([0, *ends], [*ends, len(text)], strict=True)
        pieces = [text[start:end] for start, end in places if start < end]
        if len(pieces) >= _MIN_PIECES:
            break
    return pieces


def _window(pieces: Sequence[str], wanted: float, draw: float) -> tuple[int, int]:
    """Return first piece and end of a part with about the wanted length that leaves other pieces to learn."""
    ends = [0, *accumulate(map(len, pieces))]
    last_first = next(index for index in range(len(pieces), 0, -1) if ends[-1] - ends[index - 1] >= wanted) - 1
    first = int(draw * (last_first + 1))
    end = next(index for index in range(first + 1, len(ends)) if ends[index] - ends[first] >= wanted)
    return (first + 1, end) if (first, end) == (0, len(pieces)) else (first, end)


def _parts(record: Record, pieces: Sequence[str], first: int, end: int) -> tuple[list[Record], list[Record]]:
    """Return the records before and after the held-out part, and the records of its passages."""
    before, after = "".join(pieces[:first]), "".join(pieces[end:])
    named = [(record.id, before), (f"{record.id}#2" if before else record.id, after)]
    learned = [replace(record, id=name, texts=(text.strip(),)) for name, text in named if text.strip()]
    heldout = [
        replace(record, id=f"{record.id}#held-out-{number}", texts=(passage.strip(),))
        for number, passage in enumerate(_joined(pieces[first:end], _PASSAGE), start=1)
    ]
    return learned, heldout


def _draw(record: Record, seed: int) -> float:
    """Return a number in [0, 1) that depends on the text and the seed."""
    return int.from_bytes(sha256(f"{seed}\0{record.text}".encode()).digest()[:6]) / 2**48
