"""How sure a number is: standard errors, paired differences between two models, their intervals and p-values.

Both models answered the same items, so all comparisons are paired: what an item's difficulty adds to both cancels out.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mixcpt.artifacts import ArtifactRef
from mixcpt.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame

_MAX_RESAMPLED_VALUES = 4_000_000
"""Bounds the memory of the bootstrap, not its result."""

Values = Float[np.ndarray, " items"]


@dataclass(frozen=True)
class TaskDelta:
    """What a model does differently from its base on one task."""

    task: str
    group: str
    metric: str
    higher_is_better: bool
    n: int
    base: float
    value: float
    delta: float
    """`value` - `base`, also where lower is better."""
    low: float
    high: float
    """Interval of `delta`: paired bootstrap over items; NaN for fewer than two items."""
    p_value: float
    """That there is no difference. Accuracy: exact McNemar test. Bits per byte: Wilcoxon's signed-rank test."""
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
    base: ArtifactRef, model: ArtifactRef, *, confidence: float, num_resamples: int, seed: int
) -> list[TaskDelta]:
    """Returns for each task how `model` differs from `base`, in the order of the base's tasks.

    Raises:
        DataError: If the two evaluations did not ask the same items.
    """
    directions = {task["task"]: task["higher_is_better"] for task in _summary(base)["tasks"]}
    base_items, model_items = _items(base), _items(model)
    if set(base_items) != set(model_items):
        raise _different("the tasks", set(base_items), set(model_items), base, model)
    deltas = []
    for name, better in directions.items():
        before, after = _pair(name, base_items[name], model_items[name], base, model)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])  # a task's interval depends on no other task
        deltas.append(_delta(name, better, before, after, confidence, num_resamples, rng))
    return deltas


def estimate(values: Values, weights: Values) -> tuple[float, float]:
    """Returns sum(values) / sum(weights) and its standard error (NaN for fewer than two items).

    The error of a ratio of sums is that of its linearisation (Cochran, Sampling Techniques, 1977, eq. 6.13); with all
    weights 1 it is the usual one of a mean.
    """
    ratio = float(values.sum() / weights.sum())
    if len(values) < 2:
        return ratio, math.nan
    residuals = values - ratio * weights
    return ratio, float(math.sqrt(len(values)) * residuals.std(ddof=1) / weights.sum())


def paired_interval(
    before: Values, after: Values, weights: Values, *, confidence: float, num_resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of sum(after) / sum(weights) - sum(before) / sum(weights).

    Items are drawn as pairs (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Where no item
    differs the interval is [0, 0]: the bootstrap knows nothing beyond the items it has.
    """
    from scipy import stats

    if len(weights) < 2:
        return math.nan, math.nan
    interval = stats.bootstrap(
        (after - before, weights),
        lambda difference, weight, axis: difference.sum(axis) / weight.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=num_resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, _MAX_RESAMPLED_VALUES // len(weights)),
        rng=rng,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Returns the two-sided exact p-value that an item is as likely to be gained as lost (McNemar, 1947)."""
    from scipy import stats

    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def signed_rank_p_value(before: Values, after: Values) -> float:
    """Returns the two-sided p-value that the differences lie evenly around 0 (Wilcoxon, 1945)."""
    from scipy import stats

    return float(stats.wilcoxon(after, before).pvalue) if np.any(before != after) else 1.0


def _delta(
    name: str,
    higher_is_better: bool,
    before: "DataFrame",
    after: "DataFrame",
    confidence: float,
    num_resamples: int,
    rng: np.random.Generator,
) -> TaskDelta:
    old, new, weights = before["value"].to_numpy(), after["value"].to_numpy(), before["weight"].to_numpy()
    metric = str(before["metric"].iloc[0])
    base, value = estimate(old, weights)[0], estimate(new, weights)[0]
    low, high = paired_interval(old, new, weights, confidence=confidence, num_resamples=num_resamples, rng=rng)
    gained = lost = 0
    if metric == "accuracy":
        gained, lost = int(np.sum(new > old)), int(np.sum(new < old))
        p_value = mcnemar_p_value(gained, lost)
    else:
        p_value = signed_rank_p_value(old / weights, new / weights)
    group, n = str(before["group"].iloc[0]), len(weights)
    return TaskDelta(
        name, group, metric, higher_is_better, n, base, value, value - base, low, high, p_value, gained, lost
    )


def _summary(evaluation: ArtifactRef) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(evaluation.file("summary.json").read_text())
    return summary


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
