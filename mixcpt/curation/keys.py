"""The key of a corpus; cheap to compute once the sources are open."""

from collections.abc import Sequence
from typing import Any

from mixcpt.config import CurationConfig
from mixcpt.curation.sources import OpenSource
from mixcpt.store.artifacts import StageKey

_VERSION = 1


def curation_key(config: CurationConfig, sources: Sequence[OpenSource], seed: int) -> StageKey:
    """Return the key of the corpus of some open sources: their content decides it, not their paths."""
    return StageKey(
        kind="corpus",
        version=_VERSION,
        settings={"curation": _without_paths(config), "seed": seed},
        inputs={source.config.name: source.digest for source in sources},
    )


def _without_paths(config: CurationConfig) -> dict[str, Any]:
    settings: dict[str, Any] = config.model_dump(mode="json")
    for source in settings["sources"]:
        source.pop("paths", None)
        source.pop("path", None)
    return settings
