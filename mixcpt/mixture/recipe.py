"""What each stream of a training reads: the part of a method that decides the data, and nothing of its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mixcpt.config import Form, MixtureConfig, Pool, StreamConfig, ViewConfig
from mixcpt.mixture.readings import apportion

POOLS: tuple[Pool, ...] = ("domain", "general", "instructions", "preferences")


@dataclass(frozen=True)
class StreamRecipe:
    """Methods that differ in their loss alone have equal recipes, and so share a mixture."""

    weights: Mapping[Pool, float]
    """Share of each pool that the stream reads; they sum to 1."""
    form: Form
    phase: int
    tokens: int
    """Tokens to read; where the two views differ, those of the teacher."""
    view: ViewConfig

    def identity(self) -> dict[str, Any]:
        """Returns what decides the stream's rows, as plain values."""
        return {**asdict(self), "view": self.view if self.view.view != "text" else "text"}


def recipes(config: MixtureConfig, streams: Sequence[StreamConfig]) -> tuple[StreamRecipe, ...]:
    """Returns the recipe of each stream; their tokens sum to `config.total_tokens` exactly."""
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
