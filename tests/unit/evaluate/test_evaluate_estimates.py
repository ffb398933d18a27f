"""Intervals have the promised coverage, and tests match hand-worked cases."""

import math

import numpy as np
import pytest

from mixcpt.evaluate.statistics.estimates import (
    Resampling,
    estimate,
    holm,
    mcnemar_p_value,
    minimum_detectable_effect,
    number_passages,
    paired_interval,
    paired_stderr,
    passage_sums,
    sign_flip_p_value,
    signed_rank_p_value,
    unseen_interval,
)


def separate(count: int) -> np.ndarray:
    """Return passages with one item each."""
    return np.arange(count)


def test_passages_are_numbered_by_name() -> None:
    passages = number_passages(["b", "a", "b", "c"])
    assert passages.tolist() == [1, 0, 1, 2]
    assert passage_sums(np.array([1.0, 2.0, 4.0, 8.0]), passages).tolist() == [2.0, 5.0, 8.0]


def test_estimate_of_accuracy_is_the_mean_and_its_standard_error() -> None:
    value, stderr = estimate(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4), separate(4))
    assert value == 0.75
    assert stderr == pytest.approx(0.5 / 2)  # sample deviation 0.5, four items


def test_estimate_of_bits_weighs_by_bytes_and_its_error_matches_simulation() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(50, 2000, size=(4000, 60)).astype(float)
    bits = weights * (2.0 + 0.3 * rng.standard_normal(weights.shape))
    ratios, errors = np.array([estimate(b, w, separate(60)) for b, w in zip(bits, weights, strict=True)]).T
    assert ratios[0] == pytest.approx(bits[0].sum() / weights[0].sum())
    assert errors.mean() == pytest.approx(ratios.std(), rel=0.05)


def test_estimate_error_grows_with_dependent_questions() -> None:
    rng = np.random.default_rng(1)
    passages = np.repeat(np.arange(50), 6)
    draws = (rng.random((3000, 50)) < 0.4).astype(float)[:, passages]
    means, errors = np.array([estimate(values, np.ones(300), passages) for values in draws]).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.05)
    assert estimate(draws[0], np.ones(300), separate(300))[1] < 0.5 * errors[0]


def test_estimate_of_one_passage_has_no_error() -> None:
    value, stderr = estimate(np.array([3.0, 1.0]), np.array([2.0, 2.0]), np.zeros(2, dtype=int))
    assert value == 1.0
    assert math.isnan(stderr)


@pytest.mark.parametrize("per_passage", [1, 5])
@pytest.mark.parametrize("metric", ["accuracy", "bits_per_byte"])
def test_paired_interval_covers_the_true_difference_about_as_often_as_promised(metric: str, per_passage: int) -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        before, after, weights, truth = simulate(metric, 150, rng)
        passages = np.repeat(separate(150), per_passage)
        answers = (np.repeat(values, per_passage) for values in (before, after, weights))
        low, high = paired_interval(*answers, passages, Resampling(0.9, 400), rng)
        hits += low <= truth <= high
    assert 0.85 <= hits / 300 <= 0.95


def test_paired_interval_is_narrower_than_the_unpaired_error_allows() -> None:
    rng = np.random.default_rng(2)
    before, after, weights, _ = simulate("accuracy", 1000, rng)
    low, high = paired_interval(before, after, weights, separate(1000), Resampling(0.95, 1000), rng)
    unpaired = 2 * 1.96 * math.hypot(*(estimate(values, weights, separate(1000))[1] for values in (before, after)))
    normal = 2 * 1.96 * (after - before).std(ddof=1) / math.sqrt(1000)
    assert high - low == pytest.approx(normal, rel=0.1)
    assert high - low < 0.8 * unpaired


def test_paired_interval_around_a_planted_zero_holds_zero() -> None:
    rng = np.random.default_rng(3)
    before = rng.integers(0, 2, 500).astype(float)
    after = before.copy()
    after[rng.choice(np.flatnonzero(before == 1), 30, replace=False)] = 0
    after[rng.choice(np.flatnonzero(before == 0), 30, replace=False)] = 1
    low, high = paired_interval(before, after, np.ones(500), separate(500), Resampling(0.95, 2000), rng)
    assert low < 0 < high
    assert low == pytest.approx(-high, abs=0.01)


def test_paired_interval_of_one_passage_is_unknown() -> None:
    rng = np.random.default_rng(4)
    one = np.array([1.0, 0.0])
    ends = paired_interval(one, one[::-1], np.ones(2), np.zeros(2, dtype=int), Resampling(0.95, 100), rng)
    assert all(math.isnan(end) for end in (*ends, *unseen_interval(0.5, 1, 0.95)))


def test_unseen_interval_bounds_a_change_that_no_passage_shows() -> None:
    low, high = unseen_interval(0.5, 100, 0.95)
    assert low == -high
    assert (1 - high) ** 100 == pytest.approx(0.025)  # then a hundred passages show it in all but 2.5 % of cases
    assert unseen_interval(1.0, 100, 0.95) == (low, 0.0)
    assert unseen_interval(0.01, 100, 0.95) == (-0.01, high)


def test_mcnemar_matches_the_binomial_tail_worked_by_hand() -> None:
    # 8 gained, 2 lost: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 2 * 56 / 1024
    assert mcnemar_p_value(8, 2) == pytest.approx(112 / 1024)
    assert mcnemar_p_value(2, 8) == pytest.approx(112 / 1024)
    assert mcnemar_p_value(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p_value(3, 3) == 1.0
    assert mcnemar_p_value(0, 0) == 1.0


def test_sign_flips_of_single_questions_are_mcnemars_test() -> None:
    rng = np.random.default_rng(5)
    for gained, lost in ((8, 2), (5, 0), (3, 3)):
        differences = np.repeat([1.0, -1.0, 0.0], [gained, lost, 50])
        assert sign_flip_p_value(differences, rng) == pytest.approx(mcnemar_p_value(gained, lost))
    assert sign_flip_p_value(np.zeros(9), rng) == 1.0


def test_sign_flips_count_passages_by_how_much_they_changed() -> None:
    # sums of +-3 +-1: only the two patterns of one sign reach 4
    assert sign_flip_p_value(np.array([3.0, 1.0]), np.random.default_rng(0)) == pytest.approx(0.5)


def test_signed_rank_matches_the_exact_case_worked_by_hand() -> None:
    # six differences, all of one sign: 2 of the 2^6 sign patterns are as extreme
    before = np.zeros(6)
    assert signed_rank_p_value(before, np.arange(1.0, 7.0)) == pytest.approx(2 / 64)
    assert signed_rank_p_value(before, before) == 1.0


def test_holm_multiplies_in_order_and_ignores_nan() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.2, 0.5]) == pytest.approx([1.0, 0.6, 1.0])  # no probability is above 1
    assert holm([]) == []
    adjusted = holm([0.01, math.nan, 0.04])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(adjusted[1])


def test_minimum_detectable_effect_is_found_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(6)
    effect = minimum_detectable_effect(0.02, confidence=0.95)
    seen = effect + 0.02 * rng.standard_normal(100_000)
    assert (np.abs(seen) > 1.96 * 0.02).mean() == pytest.approx(0.8, abs=0.005)


def test_paired_stderr_is_the_error_of_the_difference_and_never_zero() -> None:
    rng = np.random.default_rng(7)
    before, after, weights, _ = simulate("accuracy", 400, rng)
    expected = (after - before).std(ddof=1) / 20
    assert paired_stderr(before, after, weights, separate(400)) == pytest.approx(expected)
    assert paired_stderr(before, before, weights, separate(400)) == 1 / 400
    assert math.isnan(paired_stderr(before[:1], after[:1], weights[:1], separate(1)))


def simulate(metric: str, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return answers of two models to items of shared difficulty, their weights, and the true difference."""
    if metric == "accuracy":
        # easy, hard and middling items: (share, right before, right after)
        share, before, after = np.array([0.5, 0.3, 0.2]), np.array([0.95, 0.1, 0.4]), np.array([0.97, 0.15, 0.7])
        kind = rng.choice(3, size, p=share)
        answers = [(rng.random(size) < chance[kind]).astype(float) for chance in (before, after)]
        return answers[0], answers[1], np.ones(size), float(share @ (after - before))
    weights = rng.integers(200, 3000, size).astype(float)
    hardness = 2.0 + 0.5 * rng.standard_normal(size)
    gain = -0.1 + 0.2 * rng.standard_normal(size)
    return weights * hardness, weights * (hardness + gain), weights, -0.1
