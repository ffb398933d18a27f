"""Learning, forgetting, drift and prior knowledge in a few numbers, and the score that selects settings."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.evaluate.statistics.deltas import TaskDelta
from mixcpt.evaluate.statistics.estimates import Resampling, estimate, number_passages, paired_interval, unseen_interval
from mixcpt.evaluate.summary import EvaluationSummary, read_answers
from mixcpt.store.artifacts import ArtifactRef

_MIN_SKILL = 0.05
"""Minimum accuracy above chance that a base needs on a task, so that a retained fraction is meaningful."""


@dataclass(frozen=True)
class Retention:
    """Mean changes of accuracy against the base, with equal weights for all tasks; NaN if a group has no such task."""

    domain_mean_delta: float
    """Mean change on the domain's tasks: learning."""
    general_mean_delta: float
    """Mean change on the general tasks, gains and losses together."""
    general_mean_loss: float
    """Mean loss on the general tasks: forgetting. A gain on one task does not offset a loss on another."""
    general_retained: float
    """Retained fraction of the base's skill above chance: mean of (value - chance) / (base - chance)."""


def retention(deltas: Sequence[TaskDelta]) -> Retention:
    """Return learning and retention over the accuracy tasks."""
    domain = [delta for delta in deltas if delta.metric == "accuracy" and delta.group == "domain"]
    general = [delta for delta in deltas if delta.metric == "accuracy" and delta.group == "general"]
    skilled = [delta for delta in general if delta.base - delta.chance > _MIN_SKILL]
    return Retention(
        domain_mean_delta=_mean([delta.delta for delta in domain]),
        general_mean_delta=_mean([delta.delta for delta in general]),
        general_mean_loss=_mean([max(0.0, -delta.delta) for delta in general]),
        general_retained=_mean([(delta.value - delta.chance) / (delta.base - delta.chance) for delta in skilled]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class Drift:
    """Distance of a model's predictions from the base's on the questions or texts of a task: mean KL(base || model)."""

    task: str
    group: str
    nats: float
    """Mean KL per token over question and correct answer, or over a general text, in nats."""
    stderr: float


def drift(evaluation: ArtifactRef) -> list[Drift]:
    """Return the drift per task; empty if the evaluation had no reference."""
    drifts = []
    answers = read_answers(evaluation)
    for name, rows in answers[answers["kl_to_reference"].notna()].groupby("task", sort=False):
        values = rows["kl_to_reference"].to_numpy(dtype=float)
        nats, stderr = estimate(values, values * 0 + 1, number_passages(rows["passage"].tolist()))
        drifts.append(Drift(str(name), str(rows["group"].iloc[0]), nats, stderr=stderr))
    return drifts


@dataclass(frozen=True, kw_only=True)
class PriorKnowledge:
    """The base with and without the document in its prompt, and the trained model, on one task of the domain."""

    task: str
    n: int
    """Number of questions; those without a known document are left out."""
    closed_book: float
    """Fraction that the base answers without the document."""
    open_book: float
    """Fraction that the base answers with the document before the question."""
    trained: float
    """Fraction that the trained model answers without the document."""
    low: float
    high: float
    """Upper end of the interval of trained - open_book, a paired bootstrap over passages; NaN for fewer than
    `MIN_PASSAGES`."""
    truncated: int
    """Number of questions whose document exceeded the base's context and lost its beginning."""


def prior_knowledge(
    closed: ArtifactRef, opened: ArtifactRef, trained: ArtifactRef, resampling: Resampling, *, seed: int
) -> list[PriorKnowledge]:
    """Return the comparison of the base (`closed`, `opened` with documents) and the trained model, per task."""
    frames = [read_answers(ref) for ref in (closed, opened, trained)]
    comparisons = []
    for score in EvaluationSummary.of(opened).tasks:
        items = [frame[frame["task"] == score.task].set_index("item_id") for frame in frames]
        questions = items[1]  # without the questions whose documents are unknown
        without, reading, after = (frame.loc[questions.index]["value"].to_numpy(dtype=float) for frame in items)
        passages = number_passages(questions["passage"].tolist())
        rng = np.random.default_rng([seed, zlib.crc32(score.task.encode())])  # independent of the other tasks
        num_passages = int(passages.max()) + 1
        low, high = paired_interval(reading, after, np.ones(len(reading)), passages, resampling, rng)
        if num_passages < MIN_PASSAGES:
            low = high = math.nan
        elif not np.any(after - reading):
            low, high = unseen_interval(float(reading.mean()), num_passages, resampling.confidence)
        comparison = PriorKnowledge(
            task=score.task,
            n=len(reading),
            closed_book=float(without.mean()),
            open_book=float(reading.mean()),
            trained=float(after.mean()),
            low=low,
            high=high,
            truncated=score.truncated,
        )
        comparisons.append(comparison)
    return comparisons


def gain(base: ArtifactRef, model: ArtifactRef, task: str) -> float:
    """Return the gain of a model over the base on a task: near 0 for no change and near 1 at best.

    For accuracy it is the difference, for bits per byte the saved fraction of the base's bits.
    """
    before, after = (EvaluationSummary.of(evaluation).by_task[task] for evaluation in (base, model))
    difference = after.value - before.value
    return difference if after.higher_is_better else -difference / before.value


def selection_score(base: ArtifactRef, model: ArtifactRef, *, domain: str, general: str, domain_share: float) -> float:
    """Return domain_share * domain gain + (1 - domain_share) * general gain; the latter is often negative.

    If no task is general, `general` is empty and the score is the domain gain. It rates the value of a setting, on
    questions that no report uses.
    """
    learned = gain(base, model, domain)
    return domain_share * learned + (1 - domain_share) * gain(base, model, general) if general else learned
