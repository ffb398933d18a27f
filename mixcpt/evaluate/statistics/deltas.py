"""What a model does differently from another one, task by task, and whether that is more than chance.

Both models answered the same items, so all comparisons are paired: what an item's difficulty adds to both cancels out.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mixcpt.errors import DataError
from mixcpt.evaluate.asking.manifest import require_equal
from mixcpt.evaluate.statistics.estimates import (
    Passages,
    Resampling,
    Values,
    estimate,
    holm,
    mcnemar_p_value,
    minimum_detectable_effect,
    number_passages,
    paired_interval,
    paired_stderr,
    passage_sums,
    sign_flip_p_value,
    signed_rank_p_value,
    unseen_interval,
)
from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.store.artifacts import ArtifactRef

if TYPE_CHECKING:
    from pandas import DataFrame


Measure = Literal["value", "gold"]
GOLD_BITS = "gold_bits_per_byte"


@dataclass(frozen=True)
class TaskDelta:
    """What a model does differently from its base on one task."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    passages: int
    """What the items are about; items of one are no independent evidence."""
    chance: float
    """What blind guessing would reach; 0 where nothing is chosen among."""
    base: float
    value: float
    delta: float
    """`value` - `base`, also where lower is better."""
    low: float
    high: float
    """Interval of `delta`: paired bootstrap over passages; NaN for fewer than two."""
    p_value: float
    """That there is no difference. Accuracy: exact McNemar test, or a sign-flip test over passages where some have
    several items. Bits per byte: Wilcoxon's signed-rank test over passages."""
    p_holm: float
    """The same for all tasks of the comparison at once (Holm)."""
    detectable: float
    """The true change that a comparison like this finds in 80 of 100 cases."""
    gained: int
    """Items that only the model answers rightly; 0 for bits per byte."""
    lost: int
    """Items that only the base answers rightly; 0 for bits per byte."""

    def to_json(self) -> dict[str, Any]:
        return {name: None if _is_nan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TaskDelta":
        fields: dict[str, Any] = {name: math.nan if value is None else value for name, value in data.items()}
        return cls(**fields)


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
    """Returns for each task how `model` differs from `base`, in the order of the base's tasks.

    Args:
        base: What the changes are counted from.
        model: What changed.
        confidence: Level of the intervals.
        num_resamples: Bootstrap resamples behind each interval.
        seed: Draws them.
        across_forms: Whether the two may have been asked in different prompt forms, for a base that knows no chat.
        measure: What is compared: answers, or how many bits a byte of the right answers costs (tasks without right
            answers are left out).

    Raises:
        DataError: If the two evaluations did not ask the same items in the same way.
    """
    resampling = Resampling(confidence, num_resamples)
    changes = []
    for pair in paired(base, model, across_forms=across_forms, measure=measure):
        rng = np.random.default_rng([seed, zlib.crc32(pair.task.encode())])  # depends on no other task
        changes.append(_delta(pair, resampling, rng))
    adjusted = holm([change.p_value for change in changes])
    return [replace(change, p_holm=p_holm) for change, p_holm in zip(changes, adjusted, strict=True)]


@dataclass(frozen=True)
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
    """Returns the answers of both models, side by side, in the order of the base's tasks.

    Raises:
        DataError: If the two evaluations did not ask the same items in the same way.
    """
    directions = {score.task: score.higher_is_better for score in EvaluationSummary.of(base).tasks}
    base_items, model_items = _items(base), _items(model)
    if set(base_items) != set(model_items):
        raise _different("the tasks", set(base_items), set(model_items), base, model)
    pairs = []
    for name, better in directions.items():
        before, after = _pair(name, base_items[name], model_items[name], base, model)
        if measure == "value":
            metric, columns = str(before["metric"].iloc[0]), [before["value"], after["value"], before["weight"]]
        elif before["gold_log_prob"].isna().any():
            continue
        else:
            metric, better = GOLD_BITS, False
            columns = [*(-items["gold_log_prob"] / math.log(2) for items in (before, after)), before["gold_bytes"]]
        old, new, weights = (column.to_numpy(dtype=float) for column in columns)
        passages = number_passages(before["passage"].tolist())
        group, chance = str(before["group"].iloc[0]), float(before["chance"].mean())
        pairs.append(Paired(name, group, metric, better, old, new, weights, passages, chance))
    require_equal(base, model, across_forms=across_forms)
    return pairs


def _delta(pair: Paired, resampling: Resampling, rng: np.random.Generator) -> TaskDelta:
    answers = pair.before, pair.after, pair.weights, pair.passages
    base, value = (estimate(values, pair.weights, pair.passages)[0] for values in (pair.before, pair.after))
    low, high = paired_interval(*answers, resampling, rng)
    is_accuracy = pair.metric == "accuracy"
    num_passages = int(pair.passages.max()) + 1
    if is_accuracy and np.array_equal(pair.before, pair.after):
        low, high = unseen_interval(base, num_passages, resampling.confidence)
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
        p_value=_p_value(pair, num_passages, rng),
        p_holm=math.nan,
        detectable=minimum_detectable_effect(paired_stderr(*answers), confidence=resampling.confidence),
        gained=int(np.sum(pair.after > pair.before)) if is_accuracy else 0,
        lost=int(np.sum(pair.after < pair.before)) if is_accuracy else 0,
    )


def _p_value(pair: Paired, num_passages: int, rng: np.random.Generator) -> float:
    if pair.metric != "accuracy":
        before, after, bytes_ = (
            passage_sums(values, pair.passages) for values in (pair.before, pair.after, pair.weights)
        )
        return signed_rank_p_value(before / bytes_, after / bytes_)
    if num_passages < len(pair.weights):
        return sign_flip_p_value(passage_sums(pair.after - pair.before, pair.passages), rng)
    return mcnemar_p_value(int(np.sum(pair.after > pair.before)), int(np.sum(pair.after < pair.before)))


def _items(evaluation: ArtifactRef) -> "dict[str, DataFrame]":
    import pandas as pd

    items = pd.read_parquet(evaluation.file("items.parquet"))
    return {str(name): rows.set_index("item_id").sort_index() for name, rows in items.groupby("task", sort=False)}


def _pair(
    task: str, before: "DataFrame", after: "DataFrame", base: ArtifactRef, model: ArtifactRef
) -> "tuple[DataFrame, DataFrame]":
    """Returns the items of both models in one order, once it is sure that they are the same."""
    if set(before.index) != set(after.index) or len(before) != len(after):
        raise _different(f"the items of task {task}", set(before.index), set(after.index), base, model)
    changed = before.index[(before["gold"] != after["gold"]) | (before["weight"] != after["weight"])]
    if len(changed):
        raise DataError(
            f"task {task}: item {changed[0]} has another right answer or length in {base.path} than in {model.path}",
            "evaluate both models on the same data",
        )
    return before, after


def _different(what: str, ours: set[Any], theirs: set[Any], base: ArtifactRef, model: ArtifactRef) -> DataError:
    example = sorted(str(name) for name in ours ^ theirs)[:1]
    return DataError(
        f"{what} differ between the evaluations {base.path} and {model.path}: "
        f"{len(ours - theirs)} only in the first, {len(theirs - ours)} only in the second, e.g. {', '.join(example)}",
        "evaluate both models with the same tasks, limits and seed",
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
