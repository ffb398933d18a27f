"""Prior knowledge: the base with and without the document in its prompt, compared with the trained model."""

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mixcpt.evaluate.statistics.estimates import Resampling, number_passages, paired_interval, unseen_interval
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class PriorKnowledge:
    """The comparison on one task of the domain, over the questions whose documents are known."""

    task: str
    n: int
    closed_book: float
    """Fraction that the base answers without the document."""
    open_book: float
    """Fraction that the base answers with the document before the question."""
    trained: float
    """Fraction that the trained model answers without the document."""
    low: float
    high: float
    """Upper end of the interval of trained - open_book, a paired bootstrap over passages."""
    truncated: int
    """Number of questions whose document exceeded the base's context and lost its beginning."""


def prior_knowledge(
    closed: ArtifactRef, opened: ArtifactRef, trained: ArtifactRef, resampling: Resampling, *, seed: int
) -> list[PriorKnowledge]:
    """Return the comparison of base and trained model, per task.

    Args:
        closed: Evaluation of the base.
        opened: Evaluation of the base with the documents.
        trained: Evaluation of the trained model.
        resampling: Settings of the interval.
        seed: Seed of the resamples.
    """
    import pandas as pd

    frames = [pd.read_parquet(ref.file("items.parquet")) for ref in (closed, opened, trained)]
    comparisons = []
    for score in EvaluationSummary.of(opened).tasks:
        items = [frame[frame["task"] == score.task].set_index("item_id") for frame in frames]
        rng = np.random.default_rng([seed, zlib.crc32(score.task.encode())])  # independent of the other tasks
        comparisons.append(_compare(score.task, items, resampling, rng=rng, truncated=score.truncated))
    return comparisons


def _compare(
    task: str, items: "list[DataFrame]", resampling: Resampling, *, rng: np.random.Generator, truncated: int
) -> PriorKnowledge:
    """Return the comparison on one task, from the items of the base, the base with documents, and the model."""
    opened_items = items[1]  # without the questions whose documents are unknown
    closed, opened, trained = (frame.loc[opened_items.index]["value"].to_numpy(dtype=float) for frame in items)
    passages = number_passages(opened_items["passage"].tolist())
    low, high = paired_interval(opened, trained, np.ones(len(opened)), passages, resampling, rng)
    if not np.any(trained - opened):
        low, high = unseen_interval(float(opened.mean()), int(passages.max()) + 1, resampling.confidence)
    return PriorKnowledge(
        task=task,
        n=len(opened),
        closed_book=float(closed.mean()),
        open_book=float(opened.mean()),
        trained=float(trained.mean()),
        low=low,
        high=high,
        truncated=truncated,
    )
