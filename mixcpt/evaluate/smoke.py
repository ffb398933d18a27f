"""Does a model still answer as it did when it was evaluated? Asked before it serves, of the very files that will."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mixcpt.config import EvaluateConfig, Task
from mixcpt.errors import ModelError
from mixcpt.evaluate.asking.definitions import Form
from mixcpt.evaluate.stage import evaluate
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_VERSION = 1
_MAX_TASKS = 4
_MAX_ITEMS = 8
_SAME_FRACTION = 0.9
"""Of the answers; near-ties may fall otherwise on another device or in another batch."""
_MAX_RELATIVE_CHANGE = 0.01
"""Of the bits of a text."""


@dataclass(frozen=True)
class Smoke:
    """What is asked again."""

    config: EvaluateConfig
    """As the recorded evaluation was asked."""
    recorded: ArtifactRef
    form: Form
    attempt: str
    """Names this test: it is made each time, never answered from the store."""


def smoke_test(smoke: Smoke, model: ModelRef, corpus: ArtifactRef, *, seed: int, store: ArtifactStore) -> ArtifactRef:
    """Returns the record of a test that was passed: a few questions of the recorded evaluation, asked again.

    Raises:
        ModelError: If the model cannot be loaded, or answers otherwise than recorded.
    """
    inputs = {"model": model.digest, "evaluation": smoke.recorded.digest}

    def build(folder: Path) -> Metrics:
        with TemporaryDirectory() as apart:
            asked = evaluate(
                _shortened(smoke.config),
                model,
                corpus,
                form=smoke.form,
                seed=seed,
                store=ArtifactStore(apart),
                tracker=NullTracker(),
            )
            return _require_same(asked, smoke.recorded)

    return store.produce(StageKey("smoke", _VERSION, {"attempt": smoke.attempt}, inputs), build)


def _shortened(config: EvaluateConfig) -> EvaluateConfig:
    headlines = (config.headline_domain, config.headline_general)
    ordered = sorted(config.tasks, key=lambda task: task.name not in headlines)
    tasks = tuple(_short(task) for task in ordered[:_MAX_TASKS])
    return config.model_copy(update={"tasks": tasks})


def _short(task: Task) -> Task:
    return task.model_copy(update={"limit": min(task.limit or _MAX_ITEMS, _MAX_ITEMS)})


def _require_same(asked: ArtifactRef, recorded: ArtifactRef) -> Metrics:
    import pandas as pd

    now, before = (
        pd.read_parquet(ref.file("items.parquet")).set_index(["task", "item_id"]) for ref in (asked, recorded)
    )
    before = before.loc[before.index.intersection(now.index)]
    if before.empty:
        raise ModelError("none of the questions of the recorded evaluation could be asked again", "evaluate it anew")
    same = _same(now.loc[before.index], before)
    if same.mean() < _SAME_FRACTION:
        task, item = before.index[~same.to_numpy()][0]
        raise ModelError(
            f"only {same.sum()} of {len(same)} answers are those that were recorded; another one: {task}, {item}",
            "its files, the libraries or the device have changed since it was evaluated: evaluate it again",
        )
    return {"questions": len(same), "same": int(same.sum())}


def _same(now: "DataFrame", before: "DataFrame") -> "Series[bool]":
    is_answer = before["metric"] == "accuracy"
    same_answer = now["value"] == before["value"]
    bound = _MAX_RELATIVE_CHANGE * before["value"].abs()
    return same_answer.where(is_answer, (now["value"] - before["value"]).abs() <= bound)
