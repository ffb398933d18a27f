"""Choose which documents are read, how often and in which order, so that every pool gets its exact share of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Int

from mixcpt.config import Form, MixtureConfig, Pool, StreamConfig, ViewConfig
from mixcpt.errors import DataError

POOLS: tuple[Pool, ...] = ("domain", "general", "instructions", "preferences")


@dataclass(frozen=True)
class Readings:
    """Documents in reading order; a document is listed again for every further pass over its source."""

    source: Int[np.ndarray, " readings"]
    """Index of the source."""
    document: Int[np.ndarray, " readings"]
    """Index of the document within its source."""
    length: Int[np.ndarray, " readings"]
    """Number of tokens read: the whole document, unless the last reading was cut."""


def apportion(total: int, weights: Mapping[str, int] | Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers in proportion to `weights` that sum to `total` exactly.

    The method is that of the largest remainder (Hamilton): round down, then add 1 to those with the largest fractions.
    """
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    shares = {name: int(quota) for name, quota in exact.items()}
    by_fraction = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_fraction[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def source_targets(pool_targets: Mapping[str, int], available: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the tokens to read from each source, in proportion to the tokens that the sources of its pool have.

    `available` contains the tokens of every source, by pool.

    Raises:
        DataError: If a pool with a target has no token.
    """
    targets: dict[str, int] = {}
    for pool, tokens in pool_targets.items():
        if not sum(available.get(pool, {}).values()):
            raise DataError(
                f"mixture.weights.{pool} is above 0, but the corpus has no record of that pool",
                "set the weight to 0, or check the records that curation quarantined and removed",
            )
        targets |= apportion(tokens, available[pool])
    return targets


def order_readings(
    names: Sequence[str],
    lengths: Sequence[Int[np.ndarray, " _"]],
    targets: Sequence[int],
    seed: int,
    whole: bool = False,
) -> Readings:
    """Return the readings of all sources, each source spread evenly over the whole run.

    Args:
        names: Name of every source; name and seed decide the order of its documents.
        lengths: Tokens of every document, by source.
        targets: Tokens to read from each source.
        seed: Seed of the order.
        whole: Whether to keep or drop the last reading of every source, whichever is nearer to its target, instead of
            cutting it.
    """
    documents, tokens, places = [], [], []
    for name, source_lengths, target in zip(names, lengths, targets, strict=True):
        source_documents, source_tokens = _read_passes(source_lengths, target, source_generator(name, seed), whole)
        documents.append(source_documents)
        tokens.append(source_tokens)
        # Middle of every reading, from 0 to 1, if its source is spread evenly over the run.
        places.append((np.cumsum(source_tokens) - source_tokens / 2) / max(int(source_tokens.sum()), 1))
    sources = np.repeat(np.arange(len(names)), [len(source_tokens) for source_tokens in tokens])
    order = np.argsort(np.concatenate(places), kind="stable")
    return Readings(sources[order], np.concatenate(documents)[order], np.concatenate(tokens)[order])


def _read_passes(
    lengths: Int[np.ndarray, " documents"], target: int, generator: np.random.Generator, whole: bool
) -> tuple[Int[np.ndarray, " readings"], Int[np.ndarray, " readings"]]:
    """Return the documents of all passes over one source and the tokens read of them; every pass is shuffled anew."""
    passes = [np.empty(0, np.int64)]
    missing = target
    while missing > 0:
        order = generator.permutation(len(lengths))
        # Stop at the document that reaches the target; `missing` is then 0 or negative.
        order = order[: np.searchsorted(np.cumsum(lengths[order]), missing) + 1]
        passes.append(order)
        missing -= int(lengths[order].sum())
    documents = np.concatenate(passes)
    tokens = lengths[documents]
    if whole:
        excess = -missing
        drops_last = len(documents) > 1 and tokens[-1] - excess < excess
        count = len(documents) - drops_last
        return documents[:count], tokens[:count]
    if target:
        tokens[-1] += missing
    return documents, tokens


def source_generator(name: str, seed: int, *numbers: int) -> np.random.Generator:
    """Return the random generator of one source; it does not depend on the other sources."""
    return np.random.default_rng([seed, *numbers, int.from_bytes(sha256(name.encode()).digest()[:8])])


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
    fractions = {str(index): stream.tokens_fraction for index, stream in enumerate(streams)}
    shares = apportion(config.total_tokens, fractions)
    return tuple(
        StreamRecipe(
            weights=_weights(config, stream),
            form=stream.form,
            phase=stream.phase,
            tokens=tokens,
            view=ViewConfig(**stream.model_dump(include=set(ViewConfig.model_fields))),
        )
        for stream, tokens in zip(streams, shares.values(), strict=True)
    )


def _weights(config: MixtureConfig, stream: StreamConfig) -> dict[Pool, float]:
    if stream.reads == "domain":
        return {"domain": 1.0}
    weights = config.weights.model_dump()
    total = sum(weights.values())
    return {pool: weights[pool] / total for pool in POOLS if weights[pool] > 0}
