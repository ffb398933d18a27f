"""The key of a teacher cache, computed without torch."""

from mixcpt.config import CachedTeacherConfig
from mixcpt.mixture.account import MixtureAccount
from mixcpt.store.artifacts import ArtifactRef, StageKey
from mixcpt.store.models import ModelRef

_VERSION = 2
_DEFAULT_WINDOW = 2048


def teacher_key(
    config: CachedTeacherConfig, mixture: ArtifactRef, teacher: ModelRef, *, precision: str, max_tokens: int
) -> StageKey:
    """Return the key of a teacher's cache. It depends on the texts of the mixture, not on their packing or order."""
    window = teacher_window(max_tokens)
    return StageKey(
        kind="teacher",
        version=_VERSION,
        settings={"stage": "cache", "top_k": config.top_k, "precision": precision, "window": window},
        inputs={"tokens": MixtureAccount.of(mixture).tokens_digest, "teacher": teacher.digest},
    )


def teacher_window(max_tokens: int) -> int:
    """Return the tokens that the teacher reads at once; `max_tokens` is the model's limit, 0 if it has none."""
    return max_tokens or _DEFAULT_WINDOW
