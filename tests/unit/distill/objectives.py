"""Objectives of the tests."""

from mixcpt.config import ObjectiveConfig
from mixcpt.config.streams import Transform


def terms(
    ce_weight: float, kl_weight: float, transform: Transform, *, temperature: float = 1.0, margin: float = 0.1
) -> ObjectiveConfig:
    """Return an objective by its two weights and its transform."""
    return ObjectiveConfig(
        ce_weight=ce_weight, kl_weight=kl_weight, transform=transform, temperature=temperature, margin=margin
    )
