"""Decides which documents are read, how often and in which order, so that every pool gets its exact share of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Float, Int

from mixcpt.errors import DataError


@dataclass(frozen=True)
class Readings:
    """Documents in the order in which they are read; in every further pass over a source they come up again."""

    source: Int[np.ndarray, " readings"]
    """Index of the source."""
    document: Int[np.ndarray, " readings"]
    """Index of the document within its source."""
    length: Int[np.ndarray, " readings"]
    """Tokens read of it: all, but for a last reading that was cut."""


def apportion(total: int, weights: Mapping[str, int] | Mapping[str, float]) -> dict[str, int]:
    """Returns whole numbers in proportion to `weights` that sum to `total` exactly.

    The largest remainder method (Hamilton): round down, then give what is missing to the largest fractions.
    """
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    shares = {name: int(quota) for name, quota in exact.items()}
    by_fraction = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_fraction[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def source_targets(pool_targets: Mapping[str, int], available: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Returns the tokens that each source contributes: within a pool the sources share by what they have.

    Args:
        pool_targets: Tokens wanted of each pool.
        available: Tokens of each source, by pool.

    Raises:
        DataError: If a pool that is wanted has no token.
    """
    targets: dict[str, int] = {}
    for pool, tokens in pool_targets.items():
        if not sum(available.get(pool, {}).values()):
            raise DataError(
                f"mixture.weights.{pool} is above 0, but the corpus has no record of that pool",
                "set the weight to 0, or look at what curation quarantined and removed",
            )
        targets |= apportion(tokens, available[pool])
    return targets


def plan_readings(
    names: Sequence[str],
    lengths: Sequence[Int[np.ndarray, " _"]],
    targets: Sequence[int],
    seed: int,
    *,
    whole: bool = False,
) -> Readings:
    """Returns the readings of all sources, each source spread evenly over the whole run.

    Args:
        names: Name of each source; with the seed it decides the order of the source's documents.
        lengths: Tokens of each document, by source.
        targets: Tokens to read of each source.
        seed: Seed of the order.
        whole: Leave out the last reading of each source, or take all of it, whichever comes nearer to its target,
            instead of cutting it.
    """
    readings = [
        _read_passes(of_source, target, source_generator(name, seed), whole)
        for name, of_source, target in zip(names, lengths, targets, strict=True)
    ]
    sources = np.repeat(np.arange(len(readings)), [len(taken) for _, taken in readings])
    documents = np.concatenate([documents for documents, _ in readings])
    taken = np.concatenate([taken for _, taken in readings])
    order = np.argsort(np.concatenate([_places(taken) for _, taken in readings]), kind="stable")
    return Readings(sources[order], documents[order], taken[order])


def _read_passes(
    lengths: Int[np.ndarray, " documents"], target: int, generator: np.random.Generator, whole: bool
) -> tuple[Int[np.ndarray, " readings"], Int[np.ndarray, " readings"]]:
    """Returns documents and tokens of each: passes shuffled anew, the last document cut to fit if not `whole`."""
    passes = [np.empty(0, np.int64)]
    missing = target
    while missing > 0:
        order = generator.permutation(len(lengths))
        order = order[: np.searchsorted(np.cumsum(lengths[order]), missing) + 1]
        passes.append(order)
        missing -= int(lengths[order].sum())
    documents = np.concatenate(passes)
    taken = lengths[documents]
    if whole:
        count = len(documents) - (len(documents) > 1 and taken[-1] + missing < -missing)
        return documents[:count], taken[:count]
    if target:
        taken[-1] += missing
    return documents, taken


def _places(taken: Int[np.ndarray, " readings"]) -> Float[np.ndarray, " readings"]:
    """Returns where in the run, from 0 to 1, the middle of each reading falls if its source is spread evenly."""
    return (np.cumsum(taken) - taken / 2) / max(int(taken.sum()), 1)


def source_generator(name: str, seed: int, *numbers: int) -> np.random.Generator:
    """Returns a generator of the source's own, so that another source beside it changes nothing."""
    return np.random.default_rng([seed, *numbers, int.from_bytes(sha256(name.encode()).digest()[:8])])
