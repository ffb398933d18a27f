"""Curation: raw records in, clean documents out, and every refusal and removal explained; needs no torch."""

from mixcpt.curation.pipeline import curate
from mixcpt.curation.sources import check_sources

__all__ = ["check_sources", "curate"]
