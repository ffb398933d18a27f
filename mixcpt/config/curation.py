"""Curation of raw records into clean documents."""

from pydantic import Field, model_validator

from mixcpt.config.base import Fraction, Settings, require_unique
from mixcpt.config.sources import ClosedWorldSource, Source


class CurationConfig(Settings):
    """Sources of a run, and the steps that clean them."""

    sources: tuple[Source, ...] = Field(
        (
            ClosedWorldSource(name="world-domain", pool="domain"),
            ClosedWorldSource(name="world-instructions", pool="instructions"),
            ClosedWorldSource(name="world-preferences", pool="preferences"),
        ),
    )
    """Sources of all text that the run reads; every source names its pool."""

    normalise: bool = True
    """Whether to repair broken Unicode, unify line ends, strip trailing spaces, and drop control characters and
    left-over end-of-text marks."""

    min_characters: int = Field(20, ge=0)
    """Minimum length of a document in the pools domain and general, in characters; 0 keeps documents of any length."""

    deduplicate: bool = True
    """Whether to remove exact duplicates within a pool, after normalisation."""

    heldout_fraction: Fraction = 0.05
    """Share of domain and general documents kept out of training to measure bits per byte; 0 holds out none. They are
    split off before deduplication, so no duplicate of a held-out document is trained on."""

    @model_validator(mode="after")
    def _check(self) -> "CurationConfig":
        require_unique("source names", [source.name for source in self.sources])
        if not any(source.pool == "domain" for source in self.sources):
            raise ValueError("no source has pool: domain, so there is nothing new to learn")
        return self
