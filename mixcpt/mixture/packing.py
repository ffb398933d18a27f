"""Pack documents of any length into rows of one length: every token exactly once, with very little padding.

The method is best fit, as in Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830), within a
window of the next documents, so that rows keep the order of the mixture. A space that fits no document is filled by
splitting one.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int

WINDOW = 1_000
"""Number of documents considered at once for the space left in a row."""
MIN_SPLIT_TOKENS = 16
"""Smallest space that is filled by splitting a document; a smaller one is padded."""
MAX_PADDING_FRACTION = 0.003
"""Maximum padding as a fraction of all tokens; beyond it even small spaces are filled by splitting."""


@dataclass(frozen=True)
class Packing:
    """Segments, row by row and from left to right; a document that was split has several."""

    row: Int[np.ndarray, " segments"]
    document: Int[np.ndarray, " segments"]
    start: Int[np.ndarray, " segments"]
    """First token of the segment within its document."""
    length: Int[np.ndarray, " segments"]

    @property
    def num_rows(self) -> int:
        return int(self.row.max()) + 1 if len(self.row) else 0

    def reordered(self, order: Int[np.ndarray, " rows"]) -> "Packing":
        """Return the same rows in another order; `order` contains old row numbers."""
        new_row = np.empty_like(order)
        new_row[order] = np.arange(len(order))
        rows = new_row[self.row]
        segments = np.argsort(rows, kind="stable")
        return self.select(segments, rows[segments])

    def select(self, segments: Any, row: Int[np.ndarray, " segments"]) -> "Packing":
        """Return some segments, by slice or indices, with other row numbers."""
        return Packing(row, self.document[segments], self.start[segments], length=self.length[segments])


def pack(lengths: Int[np.ndarray, " documents"], row_tokens: int, window: int = WINDOW) -> Packing:
    """Return the place of every token of the documents; rows keep the order of the documents within the window.

    A row takes documents in order as long as the space that they leave can be filled, and then documents that fill it.
    """
    pending = _Pending(lengths, window, row_tokens)
    segments: list[tuple[int, int, int, int]] = []
    row, padding = 0, 0
    while pending:
        space = row_tokens
        allowed_padding = int(MAX_PADDING_FRACTION * (row + 1) * row_tokens) - padding
        while space and (piece := pending.take_for(space, allowed_padding)):
            length = min(piece.length, space)
            segments.append((row, piece.document, piece.start, length))
            if length < piece.length:
                pending.put_back(piece.document, piece.start + length, piece.length - length)
            space -= length
        padding += space
        row += 1
    columns = np.fromiter(chain.from_iterable(segments), np.int64, 4 * len(segments)).reshape(-1, 4).T
    return Packing(*columns)


def spread_rows(shares: Int[np.ndarray, "rows sources"], seed: int) -> Int[np.ndarray, " rows"]:
    """Return an order of the rows that spreads every kind of row evenly from beginning to end.

    Two rows are of one kind if the same source has most of their tokens and about the same share of them. Rows of one
    kind keep their order; only their exact places are random. A plain shuffle would leave long stretches of one pool.
    `shares` contains the number of tokens of every source in each row.
    """
    generator = np.random.default_rng(seed)
    largest = shares.argmax(axis=1)
    eighths = (8 * shares.max(axis=1)) // np.maximum(shares.sum(axis=1), 1)
    kinds = largest * 9 + eighths
    places = np.empty(len(shares))
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        places[rows] = (np.arange(len(rows)) + generator.random(len(rows))) / len(rows)
    return np.argsort(places, kind="stable")


def pack_segments(
    position_ids: Int[np.ndarray, " tokens"], row_tokens: int
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
    """Return row and column of every token, by first fit in order of decreasing length.

    `position_ids` restart at 0 in every segment. No segment may be longer than a row.
    """
    starts = np.flatnonzero(position_ids == 0)
    lengths = np.diff([*starts, len(position_ids)])
    rows, columns = np.empty_like(lengths), np.empty_like(lengths)
    used: list[int] = []
    for segment in np.argsort(-lengths, kind="stable"):
        length = int(lengths[segment])
        row = next((row for row, filled in enumerate(used) if filled + length <= row_tokens), len(used))
        if row == len(used):
            used.append(0)
        rows[segment], columns[segment] = row, used[row]
        used[row] += length
    return np.repeat(rows, lengths), np.repeat(columns, lengths) + position_ids


def pack_whole(lengths: Int[np.ndarray, " documents"], row_tokens: int, window: int) -> Int[np.ndarray, " documents"]:
    """Return the row of every document, by best fit among the next `window` documents.

    Rows are ordered by their first document, so the order is kept except within the window. No document may be longer
    than a row.
    """
    rows = np.empty(len(lengths), np.int64)
    num_rows = 0
    for first in range(0, len(lengths), window):
        block = lengths[first : first + window]
        rows[first : first + window] = num_rows + _best_fit(block, row_tokens)
        num_rows = int(rows[first : first + window].max()) + 1
    return rows


def _best_fit(lengths: Int[np.ndarray, " documents"], row_tokens: int) -> Int[np.ndarray, " documents"]:
    """Return the row of every document: the longest first, each into the row with the least space that fits it."""
    placed = np.empty(len(lengths), np.int64)
    spaces: list[tuple[int, int]] = []  # space left in a row and its number, in ascending order
    num_rows = 0
    for document in np.argsort(-lengths, kind="stable"):
        length = int(lengths[document])
        place = bisect_left(spaces, (length, 0))
        space, row = spaces.pop(place) if place < len(spaces) else (row_tokens, num_rows)
        num_rows = max(num_rows, row + 1)
        placed[document] = row
        insort(spaces, (space - length, row))
    # Number the rows by their first document.
    _, firsts, renamed = np.unique(placed, return_index=True, return_inverse=True)
    order = np.empty(num_rows, np.int64)
    order[np.argsort(firsts, kind="stable")] = np.arange(num_rows)
    return order[renamed]


@dataclass(slots=True, kw_only=True)
class _Piece:
    """The part of a document that is not placed yet."""

    document: int
    start: int
    length: int
    queue: int
    """Number of its queue: its length, or `row_tokens` + 1 if it is longer than a row."""
    taken: bool = False


class _Pending:
    """The next pieces in order; each choice among them takes constant time.

    Pieces of equal length share a queue; those longer than a row share the last one. Bit n of the integer `_filled` is
    set if queue n holds a piece. The longest piece that fits a space is the highest bit below a mask, and the pairs
    that fill a space exactly are the bits that the integer shares with its mirror image.
    """

    def __init__(self, lengths: Int[np.ndarray, " documents"], window: int, row_tokens: int) -> None:
        self._row_tokens = row_tokens
        self._coming: Iterator[_Piece] = (
            self._piece(document, 0, length) for document, length in enumerate(lengths.tolist()) if length
        )
        self._in_order: deque[_Piece] = deque()
        self._queues: list[deque[_Piece]] = [deque() for _ in range(row_tokens + 2)]
        self._filled = 0
        self._mirrored = 0
        """Bit `row_tokens - n` is set if queue n holds a piece."""
        for _ in range(window):
            self._admit()

    def __bool__(self) -> bool:
        return bool(self._filled)

    def take_for(self, space: int, allowed_padding: int) -> _Piece | None:
        """Remove and return the piece to put next into a row; it must be split if it is longer than the space.

        None is returned if no piece is left, or if the space should stay empty, within `allowed_padding` tokens.
        """
        oldest = self._oldest()
        if oldest is None:
            return None
        # Keep the order of the documents if the space behind the oldest piece can be used well.
        if space == self._row_tokens or self._leaves_good_space(space - oldest.length):
            return self._take(oldest.queue)
        # Otherwise fill the space without splitting: exactly with one or two pieces, or with the longest that fits.
        if queue := self._filler(space) or _highest_bit(self._filled & _up_to(space)):
            return self._take(queue)
        # No piece fits. Leave a small space empty as long as the padding is within its limit.
        if space < MIN_SPLIT_TOKENS and space <= allowed_padding:
            return None
        # Split the longest piece: each part is then as long as possible.
        return self._take(_highest_bit(self._filled))

    def put_back(self, document: int, start: int, length: int) -> None:
        """Make the rest of a document the oldest piece."""
        piece = self._piece(document, start, length)
        self._in_order.appendleft(piece)
        self._mark(piece.queue)
        self._queues[piece.queue].appendleft(piece)

    def _piece(self, document: int, start: int, length: int) -> _Piece:
        return _Piece(document=document, start=start, length=length, queue=min(length, self._row_tokens + 1))

    def _oldest(self) -> _Piece | None:
        while self._in_order and self._in_order[0].taken:
            self._in_order.popleft()
        return self._in_order[0] if self._in_order else None

    def _leaves_good_space(self, space: int) -> bool:
        """Return whether a row with this much space left is full, far from full, or can be filled without a split."""
        return space == 0 or space >= self._row_tokens // 4 or (space > 0 and self._filler(space) > 0)

    def _filler(self, space: int) -> int:
        """Return the length of a piece that fills the space exactly, possibly with one other; 0 if there is none."""
        if self._filled >> space & 1:
            return space
        # Bit n of the shifted mirror image is set if there is a piece of length `space` - n.
        complements = self._mirrored >> (self._row_tokens - space)
        return _highest_bit(self._filled & complements & _up_to(space))

    def _take(self, queue: int) -> _Piece:
        """Remove and return the first piece of a queue; queues keep the common order of the pieces."""
        piece = self._queues[queue].popleft()
        piece.taken = True
        if not self._queues[queue]:
            self._toggle(queue)
        self._admit()
        return piece

    def _admit(self) -> None:
        if piece := next(self._coming, None):
            self._in_order.append(piece)
            self._mark(piece.queue)
            self._queues[piece.queue].append(piece)

    def _mark(self, queue: int) -> None:
        """Set the bits of a queue that is about to hold a piece."""
        if not self._queues[queue]:
            self._toggle(queue)

    def _toggle(self, queue: int) -> None:
        """Change the bits of a queue that becomes filled or empty."""
        self._filled ^= 1 << queue
        if queue <= self._row_tokens:
            self._mirrored ^= 1 << (self._row_tokens - queue)


def _up_to(length: int) -> int:
    """Return the bits of the queues of at most this length."""
    return (2 << length) - 1


def _highest_bit(bits: int) -> int:
    """Return the number of the highest bit that is set; 0 if none is set."""
    return max(bits.bit_length() - 1, 0)
