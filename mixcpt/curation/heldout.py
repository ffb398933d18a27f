"""Sets documents aside to measure on; decided by their text and the seed, never by their position."""

from collections.abc import Sequence
from hashlib import sha256

from mixcpt.curation.records import Record
from mixcpt.curation.steps import content_key

_MIN_POOL = 20
"""From this many documents on, a pool has at least one held-out document."""


def split_heldout(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Returns (training, held-out) documents.

    A document is held out where the hash of its text and the seed falls below `fraction`. So adding documents moves no
    other, and equal documents share a side. A pool of 20 or more has at least one held out, and one text always stays.
    """
    draws = {content_key(record): _draw(record, seed) for record in records}
    heldout = {key for key, draw in draws.items() if draw < fraction}
    if not heldout and fraction > 0 and len(records) >= _MIN_POOL:
        heldout = {min(draws, key=draws.__getitem__)}
    if len(heldout) == len(draws) and heldout:
        heldout.remove(max(draws, key=draws.__getitem__))
    training = [record for record in records if content_key(record) not in heldout]
    return training, [record for record in records if content_key(record) in heldout]


def _draw(record: Record, seed: int) -> float:
    """Returns a number in [0, 1) that depends on the text and the seed alone."""
    digest = sha256(f"{seed}\0".encode() + content_key(record)).digest()
    return int.from_bytes(digest[:6]) / 2**48
