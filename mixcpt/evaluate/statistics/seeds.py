"""A difference over several trainings: seeds and passages are both samples, and both are in its interval."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and passages, and how sure it is."""

    mean: float
    stderr: float
    """NaN where it cannot be told."""
    degrees: float
    """Degrees of freedom of the t distribution of (mean - truth) / stderr."""
    low: float
    high: float
    p_value: float
    """That the truth is 0."""
    between_seeds: float
    """Standard deviation of the means of single seeds; NaN for one seed."""


def crossed(
    differences: Float[np.ndarray, "seeds passages"], weights: Float[np.ndarray, " passages"], *, confidence: float
) -> Crossed:
    """Returns the mean change sum(differences) / sum(weights), with an interval for new seeds and new passages.

    Every seed answers every passage, so both effects are crossed and random:
    Var = (MS_seeds + MS_passages - MS_rest) / (seeds * passages), with Satterthwaite's degrees of freedom (Clark, The
    language-as-fixed-effect fallacy, 1973). A single seed has no variance of its own: then passages alone count, and
    the interval is about this training only.

    Args:
        differences: Per seed and passage, the sum over the passage's items of after - before.
        weights: Per passage, the sum of its items' weights.
        confidence: Level of the interval.
    """
    num_seeds, num_passages = differences.shape
    total = weights.sum()
    of_seed = differences.sum(axis=1) / total
    mean = float(of_seed.mean())
    between = float(of_seed.std(ddof=1)) if num_seeds > 1 else math.nan
    if num_passages < 2:
        return Crossed(mean, math.nan, math.nan, math.nan, math.nan, math.nan, between)
    # linearised, so that their plain mean is the ratio of sums
    values = of_seed[:, None] + num_passages / total * (differences - of_seed[:, None] * weights)
    variance, degrees = _variance(values)
    return _crossed(mean, math.sqrt(variance), degrees, confidence, between)


def minimum_detectable(found: Crossed, *, confidence: float, power: float) -> float:
    """Returns the true change that such a comparison would find with the given power."""
    from scipy import stats

    if math.isnan(found.stderr):
        return math.nan
    reach = stats.t.ppf((1 + confidence) / 2, found.degrees) + stats.t.ppf(power, found.degrees)
    return float(reach * found.stderr)


def _variance(values: Float[np.ndarray, "seeds passages"]) -> tuple[float, float]:
    """Returns the variance of the grand mean and its degrees of freedom."""
    num_seeds, num_passages = values.shape
    of_passage = values.mean(axis=0)
    ms_passages = num_seeds * of_passage.var(ddof=1)
    if num_seeds == 1:
        return float(ms_passages / num_passages), float(num_passages - 1)
    of_seed = values.mean(axis=1)
    ms_seeds = num_passages * of_seed.var(ddof=1)
    rest = values - of_passage - of_seed[:, None] + values.mean()
    ms_rest = (rest**2).sum() / ((num_seeds - 1) * (num_passages - 1))
    # an estimate below either part alone is noise of the subtraction
    parts = max(ms_seeds + ms_passages - ms_rest, ms_seeds, ms_passages)
    if parts == 0:
        return 0.0, float(num_seeds - 1)
    spread = ms_seeds**2 / (num_seeds - 1) + ms_passages**2 / (num_passages - 1)
    spread += ms_rest**2 / ((num_seeds - 1) * (num_passages - 1))
    return float(parts / values.size), float(parts**2 / spread)


def _crossed(mean: float, stderr: float, degrees: float, confidence: float, between: float) -> Crossed:
    from scipy import stats

    if stderr == 0:
        return Crossed(mean, stderr, degrees, mean, mean, 1.0 if mean == 0 else 0.0, between)
    reach = float(stats.t.ppf((1 + confidence) / 2, degrees)) * stderr
    p_value = float(2 * stats.t.sf(abs(mean) / stderr, degrees))
    return Crossed(mean, stderr, degrees, mean - reach, mean + reach, p_value, between)
