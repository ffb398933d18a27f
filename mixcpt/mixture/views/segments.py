"""Pack segments of any length into rows of one length without splitting them."""

from bisect import bisect_left, insort

import numpy as np
from jaxtyping import Int


def pack_segments(
    position_ids: Int[np.ndarray, " tokens"], row_tokens: int
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
    """Return row and column of every token, by first fit in order of decreasing length.

    Args:
        position_ids: Positions that restart at 0 in every segment; no segment may be longer than a row.
        row_tokens: Length of a row.
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
