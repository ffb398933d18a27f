"""Seeded chance that gives the same draws in every version of Python."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draws that depend on the names they were seeded with and on nothing else.

    Built on `random.Random.random` alone: it is the one method whose sequence Python promises to keep.
    """

    def __init__(self, *names: str | int) -> None:
        self._random = random.Random("/".join(str(name) for name in names))

    def pick(self, choices: Sequence[T]) -> T:
        """Returns one of `choices`, each with the same chance."""
        return choices[int(self._random.random() * len(choices))]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """Returns `choices` in random order."""
        keys = [self._random.random() for _ in choices]
        return [choice for _, choice in sorted(zip(keys, choices, strict=True), key=lambda pair: pair[0])]

    def sample(self, choices: Sequence[T], count: int) -> list[T]:
        """Returns `count` different ones of `choices` in random order."""
        return self.shuffled(choices)[:count]

    def chance(self, probability: float) -> bool:
        """Returns true with the given probability."""
        return self._random.random() < probability
