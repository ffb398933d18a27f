"""The mixture: one plain text form for every pool, exact token weights, packed rows. It imports no torch."""

from mixcpt.mixture.pipeline import mix

__all__ = ["mix"]
