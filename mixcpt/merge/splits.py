"""Check that every task has items to select a weight with, and other items to report."""

from collections.abc import Mapping, Set
from itertools import product
from typing import TypeAlias

from mixcpt.config import EvaluateConfig, Split, SplitConfig
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.tasks import place_of, read_tasks, split_of
from mixcpt.store.artifacts import ArtifactRef

_Passages: TypeAlias = Mapping[str, Set[str]]
_NEEDED: tuple[Split, ...] = ("selection", "report")
_DIGITS = 3


def require_splits(evaluation: EvaluateConfig, corpus: ArtifactRef, *, seed: int) -> None:
    """Raise `DataError` if a task has no item in the selection or in the report split."""
    tasks = read_tasks(evaluation.model_copy(update={"split": "all"}), corpus, seed=seed)
    passages: _Passages = {task.name: {item.cluster for item in task.items} for task in tasks}
    for name, of_task in passages.items():
        empty = [split for split in _NEEDED if not _has_item(of_task, split, evaluation.splits)]
        if empty:
            number = f"{len(of_task)} passage{'' if len(of_task) == 1 else 's'}"
            raise DataError(
                f"evaluation task {name}: none of its {number} is in the split {empty[0]}; a sweep selects a weight on "
                "the split selection and shows its scores on the split report",
                _remedy(passages, evaluation.splits),
            )


def _has_item(passages: Set[str], split: Split, splits: SplitConfig) -> bool:
    return any(split_of(passage, splits) == split for passage in passages)


def _remedy(passages: _Passages, splits: SplitConfig) -> str:
    if single := [name for name, of_task in passages.items() if len(of_task) < 2]:
        return f"give {', '.join(single)} items about two passages or more, or remove the task from evaluate.tasks"
    for probe in (splits.probe_fraction, 0.0):
        if found := _fitting(passages, probe):
            return (
                f"set evaluate.splits.probe_fraction: {found.probe_fraction:g} and "
                f"evaluate.splits.selection_fraction: {found.selection_fraction:g}, or give more items"
            )
    return "give the tasks items about more passages, or remove the smallest task from evaluate.tasks"


def _fitting(passages: _Passages, probe: float) -> SplitConfig | None:
    """Return shares that leave every task items in both splits; None if there are none with this share of probes."""
    places = [[place for place in map(place_of, of_task) if place >= probe] for of_task in passages.values()]
    if not all(places):
        return None
    border = (max(map(min, places)) + min(map(max, places))) / 2
    selection = round(border - probe, _DIGITS)
    if not 0 < selection < 1 - probe:
        return None
    splits = SplitConfig(probe_fraction=probe, selection_fraction=selection)
    fits = (_has_item(of_task, split, splits) for of_task, split in product(passages.values(), _NEEDED))
    return splits if all(fits) else None
