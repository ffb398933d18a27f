"""What a method does differently over all of its trainings, with intervals for new seeds and new passages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixcpt.evaluate.statistics.deltas import Paired, paired
from mixcpt.evaluate.statistics.estimates import POWER, holm, passage_sums, unseen_interval
from mixcpt.evaluate.statistics.seeds import crossed, minimum_detectable
from mixcpt.store.artifacts import ArtifactRef


@dataclass(frozen=True)
class SeedsDelta:
    """A method on one task against the base, or against another method."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    passages: int
    bases: tuple[float, ...]
    """Of what it is compared with, seed by seed."""
    values: tuple[float, ...]
    """Of the method, seed by seed."""
    delta: float
    low: float
    high: float
    """Interval of `delta` for new seeds and passages; for one seed, for new passages alone."""
    p_value: float
    p_holm: float
    detectable: float
    """The true change that a comparison like this finds in four of five cases."""
    between_seeds: float
    """Standard deviation of the change from seed to seed; NaN for one seed."""

    @property
    def base(self) -> float:
        """Of what it is compared with, the mean over the seeds."""
        return sum(self.bases) / len(self.bases)

    @property
    def value(self) -> float:
        return sum(self.values) / len(self.values)


def across_seeds(
    before: Sequence[ArtifactRef], after: Sequence[ArtifactRef], *, confidence: float, across_forms: bool = False
) -> list[SeedsDelta]:
    """Returns for each task how the evaluations `after` differ from those `before`.

    Args:
        before: One evaluation for each of `after`, of the same seed; or a single one, of the base.
        after: One evaluation a seed.
        confidence: Level of the intervals.
        across_forms: Whether prompt forms may differ, for a base that knows no chat.

    Raises:
        DataError: If two of them were not asked the same in the same way.
    """
    references = list(before) * (len(after) if len(before) == 1 else 1)
    by_seed = [
        {pair.task: pair for pair in paired(reference, evaluation, across_forms=across_forms)}
        for reference, evaluation in zip(references, after, strict=True)
    ]
    changes = [_change([pairs[task] for pairs in by_seed], confidence) for task in by_seed[0]]
    adjusted = holm([change.p_value for change in changes])
    return [replace(change, p_holm=p_value) for change, p_value in zip(changes, adjusted, strict=True)]


def _change(pairs: Sequence[Paired], confidence: float) -> SeedsDelta:
    first = pairs[0]
    weights = passage_sums(first.weights, first.passages)
    differences = np.stack([passage_sums(pair.after - pair.before, pair.passages) for pair in pairs])
    found = crossed(differences, weights, confidence=confidence)
    total = first.weights.sum()
    bases = tuple(float(pair.before.sum() / total) for pair in pairs)
    low, high = found.low, found.high
    if first.metric == "accuracy" and not np.any(differences):
        low, high = unseen_interval(sum(bases) / len(bases), len(weights), confidence)
    if first.metric == "accuracy":  # a share stays between 0 and 1
        mean = sum(bases) / len(bases)
        low, high = max(low, -mean), min(high, 1 - mean)
    return SeedsDelta(
        task=first.task,
        group=first.group,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        n=len(first.weights),
        passages=len(weights),
        bases=bases,
        values=tuple(float(pair.after.sum() / total) for pair in pairs),
        delta=found.mean,
        low=low,
        high=high,
        p_value=found.p_value,
        p_holm=found.p_value,
        detectable=minimum_detectable(found, confidence=confidence, power=POWER),
        between_seeds=found.between_seeds,
    )
