"""Limits of small samples: too few passages for an interval, and scores that do not differ from guessing."""

import math
from statistics import NormalDist

MIN_PASSAGES = 10
"""Minimum number of passages for an interval, a p-value, and the words gained and lost."""
_CONFIDENCE = 0.95


def is_at_chance(metric: str, value: float, passages: int, chance: float | None) -> bool:
    """Return whether an accuracy does not differ from guessing: its 95 % Wilson interval contains the chance level.

    Questions about one passage are dependent, so the interval counts passages. A metric or task without a chance level
    is never at chance.
    """
    if metric != "accuracy" or not chance:
        return False
    low, high = wilson_interval(value, passages, _CONFIDENCE)
    return low <= chance <= high


def wilson_interval(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson, 1927), which is valid at 0 and 1."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
