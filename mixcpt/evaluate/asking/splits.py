"""Assigns questions to the splits that steer a run, choose settings, or are reported; splits share no passage.

The name of the passage decides, so a question stays in its split whatever the task, the seed or the number of runs.
"""

import hashlib
from collections.abc import Iterable

from mixcpt.config import EvaluateConfig, Split, SplitConfig
from mixcpt.evaluate.asking.items import Item


def split_of(passage: str, config: SplitConfig) -> Split:
    """Return the split of a passage and of all questions about it."""
    place = int.from_bytes(hashlib.sha256(f"split/{passage}".encode()).digest()[:8], "big") / 2**64
    if place < config.probe_fraction:
        return "probe"
    return "selection" if place < config.probe_fraction + config.selection_fraction else "report"


def in_split(items: Iterable[Item], config: EvaluateConfig) -> list[Item]:
    """Return the items in the split of the settings."""
    return [item for item in items if config.split in ("all", split_of(item.cluster, config.splits))]
