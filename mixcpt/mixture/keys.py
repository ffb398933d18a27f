"""The key of a mixture, computed without torch and, for most models, without transformers."""

from collections.abc import Sequence

from mixcpt.config import MixtureConfig, StreamConfig
from mixcpt.mixture.recipe import recipes
from mixcpt.mixture.tokenizer_digest import tokenizer_digest
from mixcpt.mixture.tokens import require_row_fits
from mixcpt.store.artifacts import ArtifactRef, StageKey
from mixcpt.store.models import ModelRef

_VERSION = 2


def mixture_key(
    config: MixtureConfig, streams: Sequence[StreamConfig], corpus: ArtifactRef, base: ModelRef, *, seed: int
) -> StageKey:
    """Return the key of a mixture.

    Only the tokenizer of the base model is part of it, so models with the same tokenizer share a mixture. Only the
    recipes of the streams are part of it, so methods that differ in their loss share a mixture.

    Raises:
        ConfigError: If a row is longer than the model's context. A model with another context may share the key.
        ModelError: If the tokenizer cannot be loaded.
    """
    require_row_fits(config.row_tokens, base)
    return StageKey(
        kind="mixture",
        version=_VERSION,
        settings={
            "mixture": config.model_dump(mode="json", exclude={"weights", "total_tokens"}),
            "streams": [recipe.identity() for recipe in recipes(config, streams)],
            "seed": seed,
        },
        inputs={"corpus": corpus.digest, "tokenizer": tokenizer_digest(base)},
    )
