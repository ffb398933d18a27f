"""What the training has to know of a stream."""

from dataclasses import dataclass

from mixcpt.config import StreamConfig
from mixcpt.distill.objective import Objective, objective_of


@dataclass(frozen=True)
class Stream:
    """One term of the loss."""

    name: str
    objective: Objective
    weight: float = 1.0
    """Of the mean over its scored tokens."""
    talr_floor: float = 0.0
    """Least weight of a token; 0 weighs all alike."""

    @classmethod
    def of(cls, config: StreamConfig) -> "Stream":
        return cls(config.name, objective_of(config), config.weight, config.talr_floor)
