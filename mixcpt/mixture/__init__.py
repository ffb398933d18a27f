"""The mixture: one plain text form for every pool, exact token weights, packed rows; needs no torch to import."""

from mixcpt.mixture.pipeline import mix

__all__ = ["mix"]
