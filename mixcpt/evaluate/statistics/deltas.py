"""The change from one model to another on every task, and whether it is more than chance.

Both models answered the same items, so all comparisons are paired: the difficulty of an item cancels out.
"""

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mixcpt.errors import DataError
from mixcpt.evaluate.asking.manifest import require_equal
from mixcpt.evaluate.guessing import MIN_PASSAGES, is_at_chance
from mixcpt.evaluate.statistics import estimates
from mixcpt.evaluate.statistics.estimates import Passages, Resampling, Values, paired_stderr, passage_sums
from mixcpt.evaluate.summary import EvaluationSummary, TaskScore, read_answers
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from pandas import DataFrame


Measure = Literal["value", "gold"]
GOLD_BITS = "gold_bits_per_byte"


@dataclass(frozen=True, kw_only=True)
class TaskDelta:
    """The change from a base to a model on one task."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    passages: int
    """Number of passages that the items are about; items about one passage are dependent."""
    chance: float
    """Expected accuracy of a random choice; 0 without choices."""
    base: float
    value: float
    delta: float
    """The difference `value` - `base`, whatever the direction of the metric."""
    low: float
    high: float
    """Upper end of the interval of `delta`, a paired bootstrap over passages; NaN for fewer than `MIN_PASSAGES`."""
    p_value: float
    """P-value of no difference; NaN for fewer than `MIN_PASSAGES`. For accuracy, an exact McNemar test, or a sign-flip
    test over passages if a passage has several items; for bits per byte, Wilcoxon's signed-rank test over passages."""
    p_holm: float
    """The p-value adjusted for all tasks of the comparison (Holm)."""
    detectable: float
    """True change that such a comparison detects in 80 of 100 cases."""
    gained: int
    """Number of items that only the model answers correctly; 0 for bits per byte."""
    lost: int
    """Number of items that only the base answers correctly; 0 for bits per byte."""

    @property
    def has_few_passages(self) -> bool:
        """Whether the items are about too few passages for an interval."""
        return self.passages < MIN_PASSAGES

    @property
    def is_at_chance(self) -> bool:
        """Whether neither model differs from guessing."""
        values = (self.base, self.value)
        return all(is_at_chance(self.metric, value, self.passages, self.chance) for value in values)


def compare(
    base: ArtifactRef,
    model: ArtifactRef,
    *,
    confidence: float,
    num_resamples: int,
    seed: int,
    across_forms: bool = False,
    measure: Measure = "value",
) -> list[TaskDelta]:
    """Return the change from `base` to `model` per task, in the order of the base's tasks.

    Args:
        across_forms: Whether prompt forms may differ, for a base without chat template.
        measure: `value` compares the answers, `gold` the bits per byte of the correct answers and leaves out tasks
            without correct answers.

    Raises:
        DataError: If the two evaluations differ in items or conditions.
    """
    resampling = Resampling(confidence, num_resamples)
    changes = []
    for pair in paired(base, model, across_forms=across_forms, measure=measure):
        rng = np.random.default_rng([seed, zlib.crc32(pair.task.encode())])  # independent of the other tasks
        changes.append(_delta(pair, resampling, rng))
    adjusted = estimates.holm([change.p_value for change in changes])
    return [replace(change, p_holm=p_holm) for change, p_holm in zip(changes, adjusted, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The answers of two models to one task, item by item."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    before: Values
    after: Values
    weights: Values
    passages: Passages
    chance: float


def paired(
    base: ArtifactRef, model: ArtifactRef, *, across_forms: bool = False, measure: Measure = "value"
) -> list[Paired]:
    """Return the answers of both models item by item, in the order of the base's tasks.

    Raises `DataError` if the two evaluations differ in items or conditions.
    """
    base_items, model_items = _items(base), _items(model)
    if set(base_items) != set(model_items):
        raise _different("the tasks", set(base_items), set(model_items), base=base, model=model)
    pairs = []
    for score in EvaluationSummary.of(base).tasks:
        before, after = base_items[score.task], model_items[score.task]
        _require_same_items(score.task, before, after, base=base, model=model)
        if measure == "value" or not before["gold_log_prob"].isna().any():
            pairs.append(_pair(score, before, after, measure))
    require_equal(base, model, across_forms=across_forms)
    return pairs


def _pair(score: TaskScore, before: "DataFrame", after: "DataFrame", measure: Measure) -> Paired:
    """Return the values of both models; for `gold`, the bits of the correct answers, weighted by their bytes."""
    is_gold = measure == "gold"
    old, new = (-items["gold_log_prob"] / math.log(2) if is_gold else items["value"] for items in (before, after))
    return Paired(
        task=score.task,
        group=str(before["group"].iloc[0]),
        metric=GOLD_BITS if is_gold else str(before["metric"].iloc[0]),
        higher_is_better=score.higher_is_better and not is_gold,
        before=old.to_numpy(dtype=float),
        after=new.to_numpy(dtype=float),
        weights=before["gold_bytes" if is_gold else "weight"].to_numpy(dtype=float),
        passages=estimates.number_passages(before["passage"].tolist()),
        chance=float(before["chance"].mean()),
    )


def _delta(pair: Paired, resampling: Resampling, rng: np.random.Generator) -> TaskDelta:
    answers = pair.before, pair.after, pair.weights, pair.passages
    base = estimates.estimate(pair.before, pair.weights, pair.passages)[0]
    value = estimates.estimate(pair.after, pair.weights, pair.passages)[0]
    is_accuracy = pair.metric == "accuracy"
    num_passages = int(pair.passages.max()) + 1
    low = high = p_value = math.nan
    if num_passages >= MIN_PASSAGES:
        low, high = estimates.paired_interval(*answers, resampling, rng)
        p_value = _p_value(pair, num_passages, rng)
        if is_accuracy and np.array_equal(pair.before, pair.after):
            low, high = estimates.unseen_interval(base, num_passages, resampling.confidence)
    return TaskDelta(
        task=pair.task,
        group=pair.group,
        metric=pair.metric,
        higher_is_better=pair.higher_is_better,
        n=len(pair.weights),
        passages=num_passages,
        chance=pair.chance,
        base=base,
        value=value,
        delta=value - base,
        low=low,
        high=high,
        p_value=p_value,
        p_holm=math.nan,
        detectable=estimates.minimum_detectable_effect(paired_stderr(*answers), confidence=resampling.confidence),
        gained=int(np.sum(pair.after > pair.before)) if is_accuracy else 0,
        lost=int(np.sum(pair.after < pair.before)) if is_accuracy else 0,
    )


def _p_value(pair: Paired, num_passages: int, rng: np.random.Generator) -> float:
    if pair.metric != "accuracy":
        num_bytes = passage_sums(pair.weights, pair.passages)
        before = passage_sums(pair.before, pair.passages) / num_bytes
        return estimates.signed_rank_p_value(before, passage_sums(pair.after, pair.passages) / num_bytes)
    if num_passages < len(pair.weights):
        return estimates.sign_flip_p_value(passage_sums(pair.after - pair.before, pair.passages), rng)
    return estimates.mcnemar_p_value(int(np.sum(pair.after > pair.before)), int(np.sum(pair.after < pair.before)))


def _items(evaluation: ArtifactRef) -> "dict[str, DataFrame]":
    """Return the items of every task, sorted by their ids."""
    by_task = read_answers(evaluation).groupby("task", sort=False)
    return {str(name): rows.set_index("item_id").sort_index() for name, rows in by_task}


def _require_same_items(
    task: str, before: "DataFrame", after: "DataFrame", *, base: ArtifactRef, model: ArtifactRef
) -> None:
    if set(before.index) != set(after.index) or len(before) != len(after):
        raise _different(f"the items of task {task}", set(before.index), set(after.index), base=base, model=model)
    changed = before.index[(before["gold"] != after["gold"]) | (before["weight"] != after["weight"])]
    if len(changed):
        raise DataError(
            f"task {task}: item {changed[0]} has a different answer or length in {base.path} than in {model.path}",
            "evaluate both models on the same data",
        )


def _different(subject: str, ours: set[Any], theirs: set[Any], *, base: ArtifactRef, model: ArtifactRef) -> DataError:
    example = sorted(str(name) for name in ours ^ theirs)[:1]
    return DataError(
        f"{subject} differ between the evaluations {base.path} and {model.path}: "
        f"{len(ours - theirs)} only in the first, {len(theirs - ours)} only in the second, e.g. {', '.join(example)}",
        "evaluate both models with the same tasks, limits and seed",
    )
