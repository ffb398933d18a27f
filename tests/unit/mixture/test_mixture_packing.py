"""Packing: no token lost or repeated, full rows, every kind of row throughout the run."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt.mixture.packing import MIN_SPLIT_TOKENS, Packing, pack, spread_rows


def covered(packing: Packing) -> dict[int, list[tuple[int, int]]]:
    """Spans (start, end) of every document, sorted."""
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for document, start, length in zip(packing.document, packing.start, packing.length, strict=True):
        spans[int(document)].append((int(start), int(start + length)))
    return {document: sorted(document_spans) for document, document_spans in spans.items()}


def used(packing: Packing) -> np.ndarray:
    return np.bincount(packing.row, weights=packing.length).astype(int)


@given(
    lengths=st.lists(st.integers(0, 200), max_size=120),
    row_tokens=st.integers(16, 64),
    window=st.sampled_from([1, 3, 50]),
)
def test_every_token_is_placed_once_and_no_row_overflows(lengths: list[int], row_tokens: int, window: int) -> None:
    packing = pack(np.array(lengths, np.int64), row_tokens, window)
    spans = covered(packing)
    assert set(spans) == {document for document, length in enumerate(lengths) if length}
    for document, document_spans in spans.items():
        ends = [0, *[end for _, end in document_spans]]
        assert [start for start, _ in document_spans] == ends[:-1]  # without a gap or an overlap
        assert ends[-1] == lengths[document]
    assert (packing.length > 0).all()
    assert (used(packing) <= row_tokens).all()
    assert (np.diff(packing.row) >= 0).all()
    assert set(packing.row.tolist()) == set(range(packing.num_rows))


def length_mixes() -> dict[str, tuple[np.ndarray, int]]:
    draw = np.random.default_rng(0)
    books = draw.lognormal(8, 1, 150).astype(int) + 2
    answers = draw.lognormal(4.5, 0.8, 3_000).astype(int) + 2
    together = np.concatenate([books, answers])
    draw.shuffle(together)
    return {
        "sentences of 12 to 40 tokens": (draw.integers(12, 40, 8_000), 256),
        "sentences of one length": (np.full(8_000, 15), 256),
        "long documents": (books, 512),
        "short answers": (answers, 512),
        "books and answers": (together, 1024),
        "long rows": (together, 4096),
        "all a little shorter than a row": (np.full(1_000, 250), 256),
        "all a little longer than a row": (np.full(1_000, 257), 256),
        "all a little longer than half a row": (np.full(1_000, 129), 256),
    }


@pytest.mark.parametrize("name", length_mixes())
def test_rows_are_full_to_995_per_mille(name: str) -> None:
    lengths, row_tokens = length_mixes()[name]
    packing = pack(lengths, row_tokens)
    assert lengths.sum() / (packing.num_rows * row_tokens) >= 0.995


def test_documents_that_fit_are_hardly_ever_split() -> None:
    lengths, row_tokens = length_mixes()["sentences of 12 to 40 tokens"]
    assert (np.bincount(pack(lengths, row_tokens).document) > 1).mean() < 0.001
    lengths, row_tokens = length_mixes()["short answers"]
    fitting = lengths <= row_tokens
    assert (np.bincount(pack(lengths, row_tokens).document)[fitting] > 1).mean() < 0.02


def test_long_documents_are_split_into_few_pieces() -> None:
    lengths, row_tokens = length_mixes()["long documents"]
    packing = pack(lengths, row_tokens)
    needed = -(-lengths // row_tokens)
    assert len(packing.length) <= needed.sum() + len(lengths)
    assert (packing.length < MIN_SPLIT_TOKENS).mean() < 0.01


def test_rows_follow_the_order_of_the_documents_but_for_the_window() -> None:
    lengths = np.random.default_rng(1).integers(20, 60, 5_000)
    packing = pack(lengths, 256, window=100)
    newest_before = np.maximum.accumulate(packing.document)
    assert (newest_before - packing.document).max() < 400
    assert np.corrcoef(packing.row, packing.document)[0, 1] > 0.99


def test_packing_reordered_moves_whole_rows() -> None:
    packing = pack(np.array([30, 10, 25, 40, 8]), 40)
    order = np.arange(packing.num_rows)[::-1].copy()
    turned = packing.reordered(order)
    for place, row in enumerate(order):
        assert turned.document[turned.row == place].tolist() == packing.document[packing.row == row].tolist()
    assert (np.diff(turned.row) >= 0).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), max_size=60), st.integers(0, 9))
def test_spread_rows_is_an_order_of_all_rows(shares: list[tuple[int, int, int]], seed: int) -> None:
    order = spread_rows(np.array(shares, np.int64).reshape(-1, 3), seed)
    assert sorted(order.tolist()) == list(range(len(shares)))


def test_spread_rows_mixes_rows_that_came_in_blocks_and_depends_on_the_seed() -> None:
    domain = np.repeat([[100, 0], [60, 40], [0, 100]], [200, 300, 500], axis=0)
    order = spread_rows(domain, seed=0)
    share = domain[order, 0].reshape(10, -1).mean(axis=1)
    assert np.abs(share - domain[:, 0].mean()).max() < 3
    assert order.tolist() != spread_rows(domain, seed=1).tolist()
    same_kind = order[order < 200]
    assert (np.diff(same_kind) > 0).all()  # so a second pass over a source does not come before the first
