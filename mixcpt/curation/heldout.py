"""Hold documents out for measurements; their text and the seed decide, never their position."""

from collections.abc import Sequence
from hashlib import sha256

from mixcpt.curation.records import Record
from mixcpt.curation.steps import content_key

_MIN_POOL = 20
"""Minimum number of documents in a pool that has at least one held-out document."""


def split_heldout(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Return the training documents and the held-out documents.

    A document is held out if the hash of its text and the seed is below `fraction`. Adding documents therefore moves no
    other document, and equal documents stay together. At least one document of a pool of 20 or more is held out, and at
    least one text remains for training.
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
    """Return a number in [0, 1) that depends only on the text and the seed."""
    digest = sha256(f"{seed}\0".encode() + content_key(record)).digest()
    return int.from_bytes(digest[:6]) / 2**48
