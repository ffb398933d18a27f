"""Views in which the teacher knows more of a document than the student: the same tokens, side by side."""

from mixcpt.mixture.views.pairs import PairsAccount, write_pairs
from mixcpt.mixture.views.segments import pack_segments

__all__ = ["PairsAccount", "pack_segments", "write_pairs"]
