"""Curation: turn raw records into clean ones, with a reason for every rejected record. It imports no torch."""

from mixcpt.curation.pipeline import clean, curate, require_domain
from mixcpt.curation.sources import check_sources, open_sources
from mixcpt.curation.steps import text_key

__all__ = ["check_sources", "clean", "curate", "open_sources", "require_domain", "text_key"]
