"""Seeded random choices that are the same in every version of Python."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Random choices that depend only on the names given as seed.

    They use only `random.Random.random`, the one method whose sequence Python guarantees.
    """

    def __init__(self, *names: str | int) -> None:
        self._random = random.Random("/".join(str(name) for name in names))

    def pick(self, choices: Sequence[T]) -> T:
        """Choose one of `choices` with equal probabilities."""
        return choices[int(self._random.random() * len(choices))]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """Put `choices` into random order."""
        keys = [self._random.random() for _ in choices]
        return [choice for _, choice in sorted(zip(keys, choices, strict=True), key=lambda pair: pair[0])]

    def sample(self, choices: Sequence[T], count: int) -> list[T]:
        """Choose `count` different elements of `choices`, in random order."""
        return self.shuffled(choices)[:count]

    def chance(self, probability: float) -> bool:
        """Draw True with the given probability."""
        return self._random.random() < probability
