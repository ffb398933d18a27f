"""From the settings of a task to what exactly is asked: checked items, drawn by seed, with what had to be left out."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mixcpt.config import BitsPerByteTask, ClosedWorldTask, EvaluateConfig, MultipleChoiceTask, Task
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import BadRecord, Item, read_items
from mixcpt.evaluate.asking.multiple_choice import choice_parser
from mixcpt.evaluate.asking.splits import split_of
from mixcpt.evaluate.asking.texts import heldout_texts, is_jsonl, read_texts
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import fingerprint

_CHECKED_LINES = 20


@dataclass(frozen=True)
class TaskItems:
    """A task and what it asks."""

    task: Task
    items: tuple[Item, ...]
    quarantined: tuple[BadRecord, ...] = ()
    examples: tuple[Item, ...] = ()
    """Shown with their answers before each question."""

    @property
    def metric(self) -> str:
        return "bits_per_byte" if isinstance(self.task, BitsPerByteTask) else "accuracy"

    @property
    def digest(self) -> str:
        """What is asked, whatever file, folder or corpus it came from."""
        return fingerprint([asdict(item) for item in (*self.items, *self.examples)])


def read_tasks(config: EvaluateConfig, corpus: ArtifactRef, *, seed: int) -> list[TaskItems]:
    """Returns every task with its items of the split; where a task has a limit, the seed draws them.

    Raises:
        DataError: If a task has nothing to ask.
    """
    return [_read(task, config, corpus, seed) for task in config.tasks]


def asked_items(task: Task, config: EvaluateConfig) -> list[Item]:
    """Returns what a task asks whose items lie in no corpus, in the split of the settings, its limit left aside."""
    items = _own_items(task)[0]
    return [item for item in items if config.split in ("all", split_of(item.cluster, config.splits))]


def check_tasks(config: EvaluateConfig) -> list[str]:
    """Returns what is wrong with the tasks' files, each problem with its key path; reads only their first lines."""
    problems = []
    for index, task in enumerate(config.tasks):
        if isinstance(task, ClosedWorldTask) or not task.path:
            continue
        try:
            _check_file(task, Path(task.path).expanduser())
        except DataError as error:
            problems.append(f"evaluate.tasks[{index}].path: {error.problem}")
    return problems


def _read(task: Task, config: EvaluateConfig, corpus: ArtifactRef, seed: int) -> TaskItems:
    bad: list[BadRecord] = []
    if isinstance(task, BitsPerByteTask) and not task.path:
        items = heldout_texts(task, corpus)
    else:
        items, bad = _own_items(task)
    examples = _examples(items, task.num_fewshot) if isinstance(task, MultipleChoiceTask) else []
    shown = {example.cluster for example in examples}
    items = [item for item in items if item.cluster not in shown]
    chosen = [item for item in items if config.split in ("all", split_of(item.cluster, config.splits))]
    if not chosen:
        raise DataError(
            f"evaluation task {task.name}: none of its {len(items)} items is in the split {config.split}",
            "add items, change evaluate.splits, or ask all with evaluate.split: all",
        )
    return TaskItems(task, tuple(_draw(chosen, task.limit, seed)), tuple(bad), tuple(examples))


def _own_items(task: Task) -> tuple[list[Item], list[BadRecord]]:
    """Returns the items of a task that has them itself or reads them from a file, and what could not be used."""
    if isinstance(task, ClosedWorldTask):
        return _world_items(task), []
    path = Path(task.path).expanduser()
    return read_items(path, choice_parser(task)) if isinstance(task, MultipleChoiceTask) else read_texts(path)


def _world_items(task: ClosedWorldTask) -> list[Item]:
    from mixcpt.closed_world import items

    return [
        Item(item.id, item.prompt, " ".join(item.answer.split()), (), f"{item.kind}/{item.entity}", item.fact_id)
        for item in items(task)
    ]


def _examples(items: Sequence[Item], count: int) -> list[Item]:
    """Returns the examples, each about another passage: by their names, so that no seed and no split changes them."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(f"example:{item.id}".encode()).digest())
    by_passage: dict[str, Item] = {}
    for item in ranked:
        by_passage.setdefault(item.cluster, item)
    return list(by_passage.values())[:count]


def _draw(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """Returns at most `limit` items in their order; a larger limit asks the same ones and more, 0 asks all."""
    if not limit or len(items) <= limit:
        return list(items)
    ranked = sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())
    chosen = {item.id for item in ranked[:limit]}
    return [item for item in items if item.id in chosen]


def _check_file(task: MultipleChoiceTask | BitsPerByteTask, path: Path) -> None:
    known = is_jsonl(path) or (isinstance(task, BitsPerByteTask) and path.name.removesuffix(".gz").endswith(".txt"))
    if not known:
        raise DataError(
            f"{path} is no kind of file that this task reads (.jsonl, for bits_per_byte also .txt; or .gz of it)"
        )
    if isinstance(task, MultipleChoiceTask):
        read_items(path, choice_parser(task), max_lines=_CHECKED_LINES)
    else:
        read_texts(path, max_lines=_CHECKED_LINES)
