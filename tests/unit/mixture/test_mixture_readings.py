"""Weights by tokens are exact; every source is read in shuffled passes, spread over the run."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt.errors import DataError
from mixcpt.mixture.readings import apportion, order_readings, source_targets


@given(st.integers(0, 10**9), st.lists(st.floats(0, 100), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-3))
def test_apportion_sums_exactly_and_is_off_by_less_than_one(total: int, weights: list[float]) -> None:
    named = {f"n{index}": weight for index, weight in enumerate(weights)}
    shares = apportion(total, named)
    assert sum(shares.values()) == total
    whole = sum(map(Fraction, weights))
    for name, weight in named.items():
        assert abs(shares[name] - total * Fraction(weight) / whole) < 1 + 1e-4


def test_apportion_worked_by_hand() -> None:
    assert apportion(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert apportion(7, {"a": 0.5, "b": 0.4, "c": 0.1}) == {"a": 3, "b": 3, "c": 1}  # 3.5, 2.8, 0.7


def test_sources_of_a_pool_share_by_what_they_have() -> None:
    targets = source_targets(
        {"domain": 1_000, "general": 500}, {"domain": {"big": 300, "small": 100}, "general": {"web": 9_999}}
    )
    assert targets == {"big": 750, "small": 250, "web": 500}


@pytest.mark.parametrize("available", [{"domain": {"d": 5}}, {"domain": {"d": 5}, "general": {"g": 0}}])
def test_wanted_pool_without_tokens_is_refused(available: dict[str, dict[str, int]]) -> None:
    with pytest.raises(DataError, match=r"mixture\.weights\.general"):
        source_targets({"domain": 1, "general": 1}, available)


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=20), min_size=1, max_size=3),
    targets=st.lists(st.integers(0, 400), min_size=3, max_size=3),
    seed=st.integers(0, 3),
)
def test_readings_sum_to_each_target_and_read_all_before_any_again(
    lengths: list[list[int]], targets: list[int], seed: int
) -> None:
    arrays = [np.array(source_lengths) for source_lengths in lengths]
    names = [f"source {index}" for index in range(len(lengths))]
    readings = order_readings(names, arrays, targets[: len(lengths)], seed)
    for source, source_lengths in enumerate(arrays):
        mine = readings.source == source
        documents, taken = readings.document[mine], readings.length[mine]
        assert taken.sum() == targets[source]
        assert (taken[:-1] == source_lengths[documents[:-1]]).all()
        assert (taken > 0).all() and (taken <= source_lengths[documents]).all()
        for first in range(0, len(documents), len(source_lengths)):
            once = documents[first : first + len(source_lengths)].tolist()
            assert len(set(once)) == len(once)


def test_each_pass_is_shuffled_anew_and_depends_on_seed_and_name_only() -> None:
    lengths = np.full(50, 10)
    two_passes = order_readings(["a"], [lengths], [1_000], seed=0).document
    assert two_passes[:50].tolist() != two_passes[50:].tolist()
    assert two_passes[:50].tolist() != list(range(50))
    assert two_passes.tolist() != order_readings(["a"], [lengths], [1_000], seed=1).document.tolist()
    beside = order_readings(["b", "a"], [lengths, lengths], [500, 1_000], seed=0)
    assert beside.document[beside.source == 1].tolist() == two_passes.tolist()
    assert beside.document[beside.source == 0].tolist() != two_passes[:50].tolist()


def test_sources_are_interleaved_from_beginning_to_end() -> None:
    lengths = [np.full(100, 50), np.full(4_000, 5)]
    readings = order_readings(["books", "answers"], lengths, [5_000, 10_000], seed=0)
    tenths = np.minimum(10 * np.cumsum(readings.length) // 15_001, 9)
    books = np.bincount(tenths, weights=readings.length * (readings.source == 0)) / np.bincount(
        tenths, weights=readings.length
    )
    assert np.abs(books - 1 / 3).max() < 0.04
