"""How raw records become clean documents."""

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, Settings
from mixcpt.config.sources import ClosedWorldSource, Source


class CurationConfig(Settings):
    """Sources in, clean and explained documents out."""

    sources: tuple[Source, ...] = Field(
        (
            ClosedWorldSource(name="world-domain", pool="domain"),
            ClosedWorldSource(name="world-instructions", pool="instructions"),
            ClosedWorldSource(name="world-preferences", pool="preferences"),
        ),
    )
    """Everything the run reads; each source says what it is for."""

    normalise: bool = True
    """Repair broken Unicode, unify line ends, strip trailing space, drop control characters and
    left-over end-of-text marks."""

    min_characters: int = Field(20, ge=0)
    """Documents shorter than this are removed (domain and general pools)."""

    deduplicate: bool = True
    """Remove exact duplicates (after normalisation) within a pool."""

    heldout_fraction: Fraction = 0.05
    """Share of domain and general documents kept out of training, to measure bits per byte on.
    Split off before deduplication, so that a duplicate of a held-out document never reaches training."""

    @model_validator(mode="after")
    def _check(self) -> "CurationConfig":
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"source names must differ; given twice: {', '.join(twice)}")
        if not any(source.pool == "domain" for source in self.sources):
            raise ValueError("no source has pool: domain; there is nothing new to learn")
        return self
