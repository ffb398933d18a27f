"""Views in which the teacher reads more of a document than the student, on the same scored tokens."""

from mixcpt.mixture.views.pairs import PairsAccount, write_pairs
from mixcpt.mixture.views.segments import pack_segments

__all__ = ["PairsAccount", "pack_segments", "write_pairs"]
