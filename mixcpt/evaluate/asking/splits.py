"""Which questions steer a run, which choose settings, and which are reported: never the same passages.

A passage's own name decides, so a question stays in its split whatever the task, the seed or the number of runs.
"""

import hashlib

from mixcpt.config import Split, SplitConfig


def split_of(passage: str, config: SplitConfig) -> Split:
    """Returns the split that a passage and all questions about it belong to."""
    place = int.from_bytes(hashlib.sha256(f"split/{passage}".encode()).digest()[:8], "big") / 2**64
    if place < config.probe_fraction:
        return "probe"
    return "selection" if place < config.probe_fraction + config.selection_fraction else "report"
