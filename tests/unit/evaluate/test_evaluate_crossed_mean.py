"""Changes over several seeds: intervals cover new seeds and passages, and the power is as promised."""

import math

import numpy as np
import pytest

from mixcpt.evaluate.statistics.across_seeds import crossed_mean

SEEDS, PASSAGES = 3, 120


def simulate(
    rng: np.random.Generator, effect: float, *, seeds: int = SEEDS, between_seeds: float = 0.02, items: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Return the changes of correct answers per seed and passage, and the number of items per passage.

    A seed shifts all answers, a passage has the same change for every seed, and the rest is random.
    """
    shift = effect + between_seeds * rng.standard_normal((seeds, 1)) + 0.1 * rng.standard_normal(PASSAGES)
    gained, lost = (
        rng.binomial(items, np.clip(0.15 + shift / 2, 0, 1)),
        rng.binomial(items, np.clip(0.15 - shift / 2, 0, 1)),
    )
    return (gained - lost).astype(float), np.full(PASSAGES, float(items))


def detectable(answers: tuple[np.ndarray, np.ndarray]) -> float:
    return crossed_mean(*answers, confidence=0.95).detectable


@pytest.mark.parametrize("between_seeds", [0.0, 0.03])
def test_crossed_interval_covers_the_truth_for_new_seeds_and_passages(between_seeds: float) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = crossed_mean(*simulate(rng, 0.05, between_seeds=between_seeds), confidence=0.9)
        hits += found.low <= 0.05 <= found.high
    assert 0.86 <= hits / 400 <= 0.97  # with three seeds on the safe side


def test_pooling_seeds_as_items_gives_intervals_that_are_too_narrow() -> None:
    """Why the seeds are crossed: the same data, taken as more passages, miss the truth far too often."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        differences, weights = simulate(rng, 0.05, between_seeds=0.05)
        pooled = crossed_mean(differences.reshape(1, -1), np.tile(weights, SEEDS), confidence=0.9)
        hits += pooled.low <= 0.05 <= pooled.high
    assert hits / 400 < 0.75


def test_planted_difference_is_found_with_the_promised_power_and_a_planted_zero_is_not() -> None:
    rng = np.random.default_rng(2)
    promised = float(np.mean([detectable(simulate(rng, 0.0, seeds=5)) for _ in range(200)]))
    found = {}
    for effect in (0.0, promised):
        changes = [crossed_mean(*simulate(rng, effect, seeds=5), confidence=0.95) for _ in range(200)]
        found[effect] = sum(change.p_value < 0.05 for change in changes) / 200
    assert found[0.0] <= 0.08
    assert 0.72 <= found[promised] <= 0.9


def test_crossed_mean_is_the_ratio_of_sums_and_one_seed_is_the_clustered_error() -> None:
    rng = np.random.default_rng(3)
    weights = rng.integers(1, 9, PASSAGES).astype(float)
    differences = rng.standard_normal((1, PASSAGES)) * weights
    found = crossed_mean(differences, weights, confidence=0.95)
    assert found.mean == pytest.approx(differences.sum() / weights.sum())
    residuals = differences[0] - found.mean * weights
    assert found.stderr == pytest.approx(math.sqrt(PASSAGES) * residuals.std(ddof=1) / weights.sum())
    assert (found.degrees, math.isnan(found.between_seeds)) == (PASSAGES - 1, True)


def test_crossed_variance_is_the_textbook_sum_of_mean_squares() -> None:
    differences = np.array([[1.0, 2.0, 6.0], [2.0, 4.0, 3.0]])
    found = crossed_mean(differences, np.ones(3), confidence=0.95)
    # worked by hand: means of seeds 3, 3; of passages 1.5, 3, 4.5; grand mean 3
    ms_seeds, ms_passages, ms_rest = 0.0, 2 * 2.25, (4 * (0.5**2 + 1.0**2 + 1.5**2) / 2) / 2
    variance = max(ms_seeds + ms_passages - ms_rest, ms_seeds, ms_passages) / 6
    assert found.stderr == pytest.approx(math.sqrt(variance))
    assert found.between_seeds == 0.0


def test_crossed_without_any_change_has_an_empty_interval_at_zero() -> None:
    found = crossed_mean(np.zeros((3, 10)), np.ones(10), confidence=0.95)
    assert (found.mean, found.stderr, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_crossed_over_one_passage_has_no_interval() -> None:
    found = crossed_mean(np.ones((3, 1)), np.ones(1), confidence=0.95)
    assert found.mean == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.detectable)
