"""Changes of a method over several training seeds, with intervals for new seeds and new passages.

Every seed answers every passage, so seeds and passages are crossed random effects:
Var(mean) = (MS_seeds + MS_passages - MS_rest) / (seeds * passages), with Satterthwaite's degrees of freedom (Clark, The
language-as-fixed-effect fallacy, 1973). A single seed has no variance between seeds: its interval covers new passages
of this training only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mixcpt.evaluate.guessing import MIN_PASSAGES, is_at_chance
from mixcpt.evaluate.statistics.deltas import Paired, paired
from mixcpt.evaluate.statistics.estimates import POWER, holm, passage_sums, unseen_interval
from mixcpt.store.artifacts import ArtifactRef


@dataclass(frozen=True, kw_only=True)
class SeedsDelta:
    """The change on one task from the base, or from another method, to a method."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    passages: int
    bases: tuple[float, ...]
    """Value of the base or of the other method, per seed."""
    values: tuple[float, ...]
    """Value of the method, per seed."""
    delta: float
    low: float
    high: float
    """Upper end of the interval of `delta` for new seeds and passages; with one seed, for new passages only. NaN for
    fewer than `MIN_PASSAGES`, like the p-values and `detectable`."""
    p_value: float
    p_holm: float
    detectable: float
    """True change that such a comparison detects in 80 of 100 cases."""
    between_seeds: float
    """Standard deviation of the change between seeds; NaN for one seed."""
    chance: float = 0.0
    """Expected accuracy of a random choice; 0 without choices."""

    @property
    def has_few_passages(self) -> bool:
        """Whether the items are about too few passages for an interval."""
        return self.passages < MIN_PASSAGES

    @property
    def is_at_chance(self) -> bool:
        """Whether neither side differs from guessing, in the mean of its seeds."""
        values = (self.base, self.value)
        return all(is_at_chance(self.metric, value, self.passages, self.chance) for value in values)

    @property
    def base(self) -> float:
        """Mean of `bases`."""
        return sum(self.bases) / len(self.bases)

    @property
    def value(self) -> float:
        """Mean of `values`."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True, kw_only=True)
class CrossedMean:
    """A mean over seeds and passages with its uncertainty."""

    mean: float
    stderr: float
    """Standard error of the mean; NaN for fewer than two passages."""
    degrees: float
    """Degrees of freedom of the t distribution of (mean - truth) / stderr."""
    low: float
    high: float
    p_value: float
    """Two-sided p-value of a true mean of 0."""
    detectable: float
    """True mean that such a comparison detects with probability `POWER`."""
    between_seeds: float
    """Standard deviation of the seeds' means; NaN for one seed."""


def across_seeds(
    before: Sequence[ArtifactRef], after: Sequence[ArtifactRef], *, confidence: float, across_forms: bool = False
) -> list[SeedsDelta]:
    """Return the change from the evaluations `before` to the evaluations `after`, per task.

    Args:
        before: One evaluation per seed, in the order of `after`; or a single one, of the base.
        after: One evaluation per seed.
        across_forms: Whether prompt forms may differ, for a base without chat template.

    Raises:
        DataError: If two evaluations differ in items or conditions.
    """
    # the single base is the reference of every seed
    references = list(before) * len(after) if len(before) == 1 else before
    pairs: dict[str, list[Paired]] = {}
    for reference, evaluation in zip(references, after, strict=True):
        for pair in paired(reference, evaluation, across_forms=across_forms):
            pairs.setdefault(pair.task, []).append(pair)
    changes = [_change(task_pairs, confidence) for task_pairs in pairs.values()]
    # several tasks are tested at once
    adjusted = holm([change.p_value for change in changes])
    return [replace(change, p_holm=p_value) for change, p_value in zip(changes, adjusted, strict=True)]


def _change(pairs: Sequence[Paired], confidence: float) -> SeedsDelta:
    """Return the change on one task from its pairs, one per seed."""
    first = pairs[0]
    # w_p = sum of the item weights of passage p
    weights = passage_sums(first.weights, first.passages)
    # d_sp = sum of (after - before) over the items of passage p, for seed s
    differences = np.stack([passage_sums(pair.after - pair.before, pair.passages) for pair in pairs])
    change = crossed_mean(differences, weights, confidence=confidence)
    # value of seed s = sum of its items' values / sum of the weights
    total = first.weights.sum()
    bases = tuple(float(pair.before.sum() / total) for pair in pairs)
    values = tuple(float(pair.after.sum() / total) for pair in pairs)
    low, high = change.low, change.high
    if first.metric == "accuracy":
        mean_base = sum(bases) / len(bases)
        if not np.any(differences):
            # no passage changed, so the t interval is [0, 0]: bound the changes that a sample can miss
            low, high = unseen_interval(mean_base, len(weights), confidence)
        # base + change must be within [0, 1]
        low, high = max(low, -mean_base), min(high, 1 - mean_base)
    p_value, detectable = change.p_value, change.detectable
    if len(weights) < MIN_PASSAGES:
        low = high = p_value = detectable = math.nan
    return SeedsDelta(
        task=first.task,
        group=first.group,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        n=len(first.weights),
        passages=len(weights),
        bases=bases,
        values=values,
        delta=change.mean,
        low=low,
        high=high,
        p_value=p_value,
        p_holm=p_value,
        detectable=detectable,
        between_seeds=change.between_seeds,
        chance=first.chance,
    )


def crossed_mean(
    differences: Float[np.ndarray, "seeds passages"], weights: Float[np.ndarray, " passages"], *, confidence: float
) -> CrossedMean:
    """Return the mean change sum(differences) / sum(weights), with an interval for new seeds and new passages.

    Args:
        differences: Sum of after - before over the items of a passage, per seed and passage.
        weights: Sum of the item weights, per passage.
    """
    from scipy import stats

    num_seeds, num_passages = differences.shape
    total = weights.sum()
    # m_s = sum_p d_sp / sum_p w_p, the change of each seed; mean = their mean
    seed_means = differences.sum(axis=1) / total
    mean = float(seed_means.mean())
    between_seeds = float(seed_means.std(ddof=1)) if num_seeds > 1 else math.nan
    stderr = degrees = low = high = p_value = detectable = math.nan
    if num_passages > 1:
        # y_sp = m_s + P / sum_p w_p * (d_sp - m_s * w_p): the ratio m_s linearized, so that mean_p y_sp = m_s
        values = seed_means[:, None] + num_passages / total * (differences - seed_means[:, None] * weights)
        variance, degrees = _variance(values)
        stderr = math.sqrt(variance)
        # mean -+ t_(1 - error / 2) * stderr, and P(|t| > |mean| / stderr)
        quantile = stats.t.ppf((1 + confidence) / 2, degrees)
        low, high = mean - float(quantile) * stderr, mean + float(quantile) * stderr
        p_value = float(2 * stats.t.sf(abs(mean) / stderr, degrees)) if stderr else float(mean == 0)
        # (t_(1 - error / 2) + t_power) * stderr
        detectable = float((quantile + stats.t.ppf(POWER, degrees)) * stderr)
    return CrossedMean(
        mean=mean,
        stderr=stderr,
        degrees=degrees,
        low=low,
        high=high,
        p_value=p_value,
        detectable=detectable,
        between_seeds=between_seeds,
    )


def _variance(values: Float[np.ndarray, "seeds passages"]) -> tuple[float, float]:
    """Return the variance of the grand mean and its degrees of freedom."""
    num_seeds, num_passages = values.shape
    # MS_passages = S * Var_p(mean_s y_sp)
    passage_means = values.mean(axis=0)
    ms_passages = num_seeds * passage_means.var(ddof=1)
    if num_seeds == 1:
        return float(ms_passages / num_passages), float(num_passages - 1)
    # MS_seeds = P * Var_s(mean_p y_sp)
    seed_means = values.mean(axis=1)
    ms_seeds = num_passages * seed_means.var(ddof=1)
    # MS_rest = sum of squared interactions / ((S - 1) (P - 1))
    interaction = values - passage_means - seed_means[:, None] + values.mean()
    ms_rest = (interaction**2).sum() / ((num_seeds - 1) * (num_passages - 1))
    # numerator MS_seeds + MS_passages - MS_rest; below either of the first two it is only noise of the subtraction
    numerator = max(ms_seeds + ms_passages - ms_rest, ms_seeds, ms_passages)
    if numerator == 0:
        return 0.0, float(num_seeds - 1)
    # Satterthwaite: numerator^2 / sum of MS^2 / (degrees of freedom of that MS)
    denominator = ms_seeds**2 / (num_seeds - 1) + ms_passages**2 / (num_passages - 1)
    denominator += ms_rest**2 / ((num_seeds - 1) * (num_passages - 1))
    return float(numerator / values.size), float(numerator**2 / denominator)
