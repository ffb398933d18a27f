"""The recipe of every stream of a training run: the settings of a method that decide its data, without its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mixcpt.config import Form, MixtureConfig, Pool, StreamConfig, ViewConfig
from mixcpt.mixture.readings import apportion

POOLS: tuple[Pool, ...] = ("domain", "general", "instructions", "preferences")


@dataclass(frozen=True, kw_only=True)
class StreamRecipe:
    """The data of one stream. Methods that differ only in their loss have equal recipes and share a mixture."""

    weights: Mapping[Pool, float]
    """Fraction of the tokens that come from each pool; the fractions sum to 1."""
    form: Form
    phase: int
    tokens: int
    """Number of tokens to read; teacher tokens if teacher and student have different views."""
    view: ViewConfig

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the rows of the stream, as plain values."""
        return {**asdict(self), "view": self.view if self.view.view != "text" else "text"}


def recipes(config: MixtureConfig, streams: Sequence[StreamConfig]) -> tuple[StreamRecipe, ...]:
    """Return the recipe of every stream; their tokens sum to `config.total_tokens` exactly."""
    tokens = apportion(
        config.total_tokens, {str(index): stream.tokens_fraction for index, stream in enumerate(streams)}
    )
    return tuple(
        StreamRecipe(
            weights=_weights(config, stream),
            form=stream.form,
            phase=stream.phase,
            tokens=tokens[str(index)],
            view=ViewConfig(**stream.model_dump(include=set(ViewConfig.model_fields))),
        )
        for index, stream in enumerate(streams)
    )


def _weights(config: MixtureConfig, stream: StreamConfig) -> dict[Pool, float]:
    if stream.reads == "domain":
        return {"domain": 1.0}
    weights = config.weights.model_dump()
    total = sum(weights.values())
    return {pool: weights[pool] / total for pool in POOLS if weights[pool] > 0}
