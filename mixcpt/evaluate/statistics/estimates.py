"""Uncertainty of results: standard errors, paired intervals, p-values, and minimum detectable changes.

Answers to questions about one passage are dependent, so all functions draw or sum whole passages. Values and weights
are per item: accuracy is the ratio of their sums with all weights 1, bits per byte with the texts' bytes as weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_MAX_RESAMPLED_VALUES = 4_000_000
"""Maximum number of values that a bootstrap holds in memory; does not change its result."""
POWER = 0.8
"""Probability of detecting a change that is called detectable."""

Values = Float[np.ndarray, " items"]
Passages = Int[np.ndarray, " items"]
"""Passage number per item, counted from 0."""


@dataclass(frozen=True)
class Resampling:
    """Settings of a bootstrap interval."""

    confidence: float
    num_resamples: int


def number_passages(names: Sequence[str]) -> Passages:
    """Return the numbers of the items' passages, from their names."""
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1].astype(np.int64)


def passage_sums(values: Values, passages: Passages) -> Float[np.ndarray, " passages"]:
    """Return the sum of the values per passage."""
    return np.bincount(passages, weights=values)


def estimate(values: Values, weights: Values, passages: Passages) -> tuple[float, float]:
    """Return sum(values) / sum(weights) and its standard error (NaN for fewer than two passages).

    The error is that of the linearized ratio of cluster sums (Cochran, Sampling Techniques, 1977, eq. 9A.8, with
    clusters as units). With weights 1 and one item per passage it is the usual error of a mean.
    """
    ratio = float(values.sum() / weights.sum())
    residuals = passage_sums(values - ratio * weights, passages)
    if len(residuals) < 2:
        return ratio, math.nan
    return ratio, float(math.sqrt(len(residuals)) * residuals.std(ddof=1) / weights.sum())


def paired_interval(
    before: Values, after: Values, weights: Values, passages: Passages, resampling: Resampling, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of sum(after) / sum(weights) - sum(before) / sum(weights).

    Passages are drawn with all their items, as pairs (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapters 8 and 13); NaN for fewer than two. If no item differs, it is [0, 0]: see `unseen_interval`.
    """
    from scipy import stats

    differences, totals = passage_sums(after - before, passages), passage_sums(weights, passages)
    if len(totals) < 2:
        return math.nan, math.nan
    interval = stats.bootstrap(
        (differences, totals),
        lambda difference, total, axis: difference.sum(axis) / total.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=resampling.num_resamples,
        confidence_level=resampling.confidence,
        method="percentile",
        batch=max(1, _MAX_RESAMPLED_VALUES // len(totals)),
        rng=rng,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def unseen_interval(accuracy: float, num_passages: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a change of accuracy if no passage of the sample changed; a bootstrap would give [0, 0].

    At most 1 - (error / 2)^(1 / n) of all passages change (Clopper and Pearson, 1934), and accuracy stays in [0, 1].
    """
    if num_passages < 2:
        return math.nan, math.nan
    unseen = 1 - ((1 - confidence) / 2) ** (1 / num_passages)
    return -min(unseen, accuracy), min(unseen, 1 - accuracy)


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Return the two-sided exact p-value of gains and losses being equally likely (McNemar, 1947)."""
    from scipy import stats

    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def sign_flip_p_value(differences: Float[np.ndarray, " passages"], rng: np.random.Generator) -> float:
    """Return the two-sided p-value of positive and negative changes of a passage being equally likely.

    This permutation test of the sum is exact for few passages and uses 9,999 draws for many. With one question per
    passage it equals McNemar's test.
    """
    from scipy import stats

    changed = differences[differences != 0]
    if len(changed) < 2:
        return 1.0
    test = stats.permutation_test(
        (changed,),
        lambda sample, axis: sample.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        batch=max(1, _MAX_RESAMPLED_VALUES // len(changed)),
        rng=rng,
    )
    return float(test.pvalue)


def signed_rank_p_value(before: Values, after: Values) -> float:
    """Return the two-sided p-value of the differences being symmetric around 0 (Wilcoxon, 1945)."""
    from scipy import stats

    return float(stats.wilcoxon(after, before).pvalue) if np.any(before != after) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests (Holm, 1979); NaN stays NaN and is not counted as a test."""
    adjusted = np.array(p_values, dtype=float)
    num_tests = np.count_nonzero(~np.isnan(adjusted))
    ascending = np.argsort(adjusted)[:num_tests]  # argsort puts NaN last
    # adjusted p of rank k = min(1, max over ranks i <= k of (m - i + 1) * p_i)
    factors = np.arange(num_tests, 0, -1)
    adjusted[ascending] = np.minimum(1.0, np.maximum.accumulate(factors * adjusted[ascending]))
    return [float(value) for value in adjusted]


def minimum_detectable_effect(stderr: float, *, confidence: float, power: float = POWER) -> float:
    """Return the true change that a two-sided test at level 1 - confidence detects with the given power.

    It is (z_(1 - error / 2) + z_power) * stderr (Cohen, Statistical Power Analysis, 1988), with the standard error of
    the paired difference.
    """
    from scipy import stats

    return float((stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)) * stderr)


def paired_stderr(before: Values, after: Values, weights: Values, passages: Passages) -> float:
    """Return the standard error of the paired difference, never 0.

    If nothing differs, the usual error is 0, as if the smallest change were detectable. In that case the result is the
    effect of one item that differs.
    """
    differences = passage_sums(after - before, passages)
    if len(differences) < 2:
        return math.nan
    if np.any(differences):
        return estimate(after - before, weights, passages)[1]
    return float(weights.mean() / weights.sum())
