"""Packs documents of any length into rows of one length: nothing lost, nothing doubled, hardly any padding.

Best fit, as in Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830), but within a window of
the next documents, so that the order of the mixture survives; a space that no document fits is filled by splitting one.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int

WINDOW = 1_000
"""Documents that are considered at once for the space left in a row."""
MIN_SPLIT_TOKENS = 16
"""A space smaller than this is rather left empty than filled with so short a piece of a document."""
MAX_PADDING_FRACTION = 0.003
"""Padding that may be spent on such spaces; beyond it they are filled all the same."""


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
        """Returns the same rows in another order; `order` names the old rows."""
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        segments = np.argsort(place[self.row], kind="stable")
        return Packing(place[self.row][segments], self.document[segments], self.start[segments], self.length[segments])


def pack(lengths: Int[np.ndarray, " documents"], row_tokens: int, window: int = WINDOW) -> Packing:
    """Returns where every token of the documents goes; rows keep the documents' order but for the window.

    Documents are taken in order as long as the space that they leave can be filled; then come those that fill it.
    """
    pending = _Pending(lengths, window, row_tokens)
    segments: list[tuple[int, int, int, int]] = []
    row, padding = 0, 0
    while pending:
        space = row_tokens
        spare = int(MAX_PADDING_FRACTION * (row + 1) * row_tokens) - padding
        while space and (piece := pending.take_for(space, spare)):
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
    """Returns an order of the rows in which every kind of row comes up evenly from beginning to end.

    Rows are of one kind where the same source has most of their tokens and about the same share of them. Among its like
    each row keeps its turn; only its exact place is drawn. A plain shuffle would leave long stretches of one pool.

    Args:
        shares: Tokens of each source in each row.
        seed: Seed of the exact places.
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


@dataclass(slots=True)
class _Piece:
    """What is left to place of a document."""

    document: int
    start: int
    length: int
    queue: int
    """In which it waits: that of its length, or the last."""
    taken: bool = False


class _Pending:
    """The next pieces in order; each choice among them takes constant time.

    Pieces of equal length wait in one queue, those longer than a row in the last. Bit n of an integer says whether
    queue n holds a piece: the longest that fits is the highest bit below a mask, and the pairs that fill a space
    exactly are the bits that the integer shares with its mirror image.
    """

    def __init__(self, lengths: Int[np.ndarray, " documents"], window: int, row_tokens: int) -> None:
        self._coming: Iterator[_Piece] = (
            _Piece(document, 0, length, min(length, row_tokens + 1))
            for document, length in enumerate(lengths.tolist())
            if length
        )
        self._row_tokens = row_tokens
        self._in_order: deque[_Piece] = deque()
        self._queues: list[deque[_Piece]] = [deque() for _ in range(row_tokens + 2)]
        self._filled = 0
        self._mirrored = 0
        """Bit `row_tokens - n` is set where queue n holds a piece."""
        for _ in range(window):
            self._admit()

    def __bool__(self) -> bool:
        return bool(self._filled)

    def take_for(self, space: int, spare: int) -> _Piece | None:
        """Returns the piece to put next into a row with this much space, longer than it if it is to be split.

        Args:
            space: Tokens left in the row.
            spare: Padding that may be afforded; None is returned only within it, or when no piece is left.
        """
        oldest = self._oldest()
        if oldest is None:
            return None
        if space == self._row_tokens or self._leaves_good_space(space - oldest.length):
            return self._take(oldest.queue)
        fitting = self._filler(space) or (self._filled & _up_to(space)).bit_length() - 1
        if fitting > 0:
            return self._take(fitting)
        if space < MIN_SPLIT_TOKENS and space <= spare:
            return None
        return self._take(self._filled.bit_length() - 1)

    def put_back(self, document: int, start: int, length: int) -> None:
        """Makes the rest of a document the oldest piece."""
        piece = _Piece(document, start, length, min(length, self._row_tokens + 1))
        self._in_order.appendleft(piece)
        self._mark(piece.queue)
        self._queues[piece.queue].appendleft(piece)

    def _oldest(self) -> _Piece | None:
        while self._in_order and self._in_order[0].taken:
            self._in_order.popleft()
        return self._in_order[0] if self._in_order else None

    def _leaves_good_space(self, space: int) -> bool:
        """Tells whether a row with this much space left is full, far from full, or can be filled without a split."""
        return space == 0 or space >= self._row_tokens // 4 or (space > 0 and self._filler(space) > 0)

    def _filler(self, space: int) -> int:
        """Returns the length of a piece that fills the space, alone or with one other; 0 where there is none."""
        if self._filled >> space & 1:
            return space
        pairs = self._filled & (self._mirrored >> (self._row_tokens - space)) & _up_to(space)
        return max(pairs.bit_length() - 1, 0)

    def _take(self, queue: int) -> _Piece:
        """Returns the first of a queue; queues and the common order agree, so the oldest of all is first of its own."""
        piece = self._queues[queue].popleft()
        piece.taken = True
        if not self._queues[queue]:
            self._unmark(queue)
        self._admit()
        return piece

    def _admit(self) -> None:
        if piece := next(self._coming, None):
            self._in_order.append(piece)
            self._mark(piece.queue)
            self._queues[piece.queue].append(piece)

    def _mark(self, queue: int) -> None:
        """Sets the bits of a queue that is about to hold a piece."""
        if self._queues[queue]:
            return
        self._filled |= 1 << queue
        if queue <= self._row_tokens:
            self._mirrored |= 1 << (self._row_tokens - queue)

    def _unmark(self, queue: int) -> None:
        self._filled &= ~(1 << queue)
        if queue <= self._row_tokens:
            self._mirrored &= ~(1 << (self._row_tokens - queue))


def _up_to(length: int) -> int:
    """Returns the bits of the queues of at most this length."""
    return (2 << length) - 1
