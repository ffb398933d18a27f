"""Merging: combines models of one architecture weight by weight, shard by shard, without any training."""

from mixcpt.merge.methods import average, interpolate, residual
from mixcpt.merge.names import find_model
from mixcpt.merge.sweep import SweepReport, sweep

__all__ = ["SweepReport", "average", "find_model", "interpolate", "residual", "sweep"]
