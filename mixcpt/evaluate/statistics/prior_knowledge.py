"""Is it already known? What the base answers by itself and with the document at hand, and what training made of it."""

import zlib
from dataclasses import dataclass

import numpy as np

from mixcpt.evaluate.statistics.estimates import Resampling, number_passages, paired_interval, unseen_interval
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.store.artifacts import ArtifactRef


@dataclass(frozen=True)
class Known:
    """One task of the domain, over the questions whose documents are known."""

    task: str
    n: int
    closed_book: float
    """Share that the base answers by itself."""
    open_book: float
    """Share that it answers with the document before the question."""
    trained: float
    """Share that the trained model answers by itself."""
    low: float
    high: float
    """Interval of trained - open_book: paired bootstrap over passages."""
    truncated: int
    """Questions whose document did not fit into the base's context and lost its beginning."""


def known(
    closed: ArtifactRef, opened: ArtifactRef, trained: ArtifactRef, resampling: Resampling, *, seed: int
) -> list[Known]:
    """Returns what was known before training, task by task.

    Args:
        closed: The evaluation of the base.
        opened: Of the base with the documents.
        trained: Of the trained model.
        resampling: How the interval is made.
        seed: Draws its resamples.
    """
    import pandas as pd

    frames = [pd.read_parquet(ref.file("items.parquet")) for ref in (closed, opened, trained)]
    truncated = {score.task: score.truncated for score in EvaluationSummary.of(opened).tasks}
    found = []
    for name in truncated:
        parts = [frame[frame["task"] == name].set_index("item_id") for frame in frames]
        asked = parts[1].index
        before, with_document, after = (part.loc[asked]["value"].to_numpy(dtype=float) for part in parts)
        passages = number_passages(parts[1]["passage"].tolist())
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        low, high = paired_interval(with_document, after, np.ones(len(asked)), passages, resampling, rng)
        if not np.any(after - with_document):
            low, high = unseen_interval(float(with_document.mean()), int(passages.max()) + 1, resampling.confidence)
        closed_book, open_book, share = (float(values.mean()) for values in (before, with_document, after))
        found.append(Known(name, len(asked), closed_book, open_book, share, low, high, truncated[name]))
    return found
