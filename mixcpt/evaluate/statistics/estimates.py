"""How sure a number is: standard errors, paired intervals, p-values, and the smallest change that would be seen.

Answers to questions about one passage stand and fall together, so all of these draw or sum whole passages. Values
and weights are per item; accuracy is the ratio of sums with every weight 1, bits per byte with the texts' bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_MAX_RESAMPLED_VALUES = 4_000_000
"""Bounds the memory of a bootstrap, not its result."""
POWER = 0.8
"""Of the change that a comparison is said to see."""

Values = Float[np.ndarray, " items"]
Passages = Int[np.ndarray, " items"]
"""Which passage each item is about, counted from 0."""


@dataclass(frozen=True)
class Resampling:
    """How an interval is made."""

    confidence: float
    num_resamples: int


def number_passages(names: Sequence[str]) -> Passages:
    """Returns the passages of items by their names, numbered."""
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1].astype(np.int64)


def passage_sums(values: Values, passages: Passages) -> Float[np.ndarray, " passages"]:
    """Returns the sum of the values of each passage."""
    return np.bincount(passages, weights=values)


def estimate(values: Values, weights: Values, passages: Passages) -> tuple[float, float]:
    """Returns sum(values) / sum(weights) and its standard error (NaN for fewer than two passages).

    The error of a ratio of sums over clusters is that of its linearisation (Cochran, Sampling Techniques, 1977,
    eq. 9A.8 with clusters as units); with weights 1 and a passage an item it is the usual one of a mean.
    """
    ratio = float(values.sum() / weights.sum())
    residuals = passage_sums(values - ratio * weights, passages)
    if len(residuals) < 2:
        return ratio, math.nan
    return ratio, float(math.sqrt(len(residuals)) * residuals.std(ddof=1) / weights.sum())


def paired_interval(
    before: Values,
    after: Values,
    weights: Values,
    passages: Passages,
    resampling: Resampling,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of sum(after) / sum(weights) - sum(before) / sum(weights).

    Passages are drawn with all their items, as pairs (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapters 8 and 13); NaN for fewer than two. Where no item differs it is [0, 0]: see `unseen_interval`.
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
    """Returns the interval of a change of accuracy that none of so many passages showed, where a bootstrap has nothing.

    No more than 1 - (error / 2)^(1 / n) of all passages change (Clopper and Pearson, 1934), and no accuracy leaves
    0 to 1.
    """
    if num_passages < 2:
        return math.nan, math.nan
    unseen = 1 - ((1 - confidence) / 2) ** (1 / num_passages)
    return -min(unseen, accuracy), min(unseen, 1 - accuracy)


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Returns the two-sided exact p-value that an item is as likely to be gained as lost (McNemar, 1947)."""
    from scipy import stats

    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def sign_flip_p_value(differences: Float[np.ndarray, " passages"], rng: np.random.Generator) -> float:
    """Returns the two-sided p-value that each passage's change could as well have had the other sign.

    A permutation test of the sum: exact for few passages, from 9,999 draws for many. With passages of one question
    each it is McNemar's test.
    """
    from scipy import stats

    changed = differences[differences != 0]
    if len(changed) < 2:
        return 1.0
    return float(
        stats.permutation_test(
            (changed,),
            lambda sample, axis: sample.sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=9_999,
            batch=max(1, _MAX_RESAMPLED_VALUES // len(changed)),
            rng=rng,
        ).pvalue
    )


def signed_rank_p_value(before: Values, after: Values) -> float:
    """Returns the two-sided p-value that the differences lie evenly around 0 (Wilcoxon, 1945)."""
    from scipy import stats

    return float(stats.wilcoxon(after, before).pvalue) if np.any(before != after) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that hold for all of them at once (Holm, 1979); NaN stays NaN and counts for nothing."""
    adjusted = np.array(p_values, dtype=float)
    known = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # NaN is last
    left = np.arange(len(known), 0, -1)
    adjusted[known] = np.minimum(1.0, np.maximum.accumulate(left * adjusted[known]))
    return [float(value) for value in adjusted]


def minimum_detectable_effect(stderr: float, *, confidence: float, power: float = POWER) -> float:
    """Returns the true change that a two-sided test at 1 - confidence finds with the given power.

    That is (z_(1 - error / 2) + z_power) * stderr (Cohen, Statistical Power Analysis, 1988); `stderr` is that of the
    paired difference.
    """
    from scipy import stats

    return float((stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)) * stderr)


def paired_stderr(before: Values, after: Values, weights: Values, passages: Passages) -> float:
    """Returns the standard error of the paired difference, never 0: one passage more is taken to differ by an item.

    Where nothing differs, the plain error is 0, which would promise to see the smallest change.
    """
    differences = passage_sums(after - before, passages)
    if len(differences) < 2:
        return math.nan
    if np.any(differences):
        return estimate(after - before, weights, passages)[1]
    return float(weights.mean() / weights.sum())
