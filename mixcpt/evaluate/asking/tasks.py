"""Reads the items of tasks: checks them, selects the split and draws by seed; keeps rejected records with reasons.

Splits share no passage. The name of the passage decides, so a question stays in its split whatever the task, the seed
or the number of runs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

from mixcpt import closed_world
from mixcpt.config import (
    BenchmarkTask,
    BitsPerByteTask,
    ClosedWorldTask,
    EvaluateConfig,
    MultipleChoiceTask,
    Split,
    SplitConfig,
    Task,
    is_question,
)
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.benchmarks import as_examples, read_benchmark, with_description
from mixcpt.evaluate.asking.files import read_file, task_file
from mixcpt.evaluate.asking.items import Item, heldout_items, own_id
from mixcpt.evaluate.asking.records import BadRecord
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.fingerprint import fingerprint

_COMPARED_TEXTS = 100


@dataclass(frozen=True)
class TaskItems:
    """A task with its items."""

    config: Task
    items: tuple[Item, ...]
    quarantined: tuple[BadRecord, ...] = ()
    examples: tuple[Item, ...] = ()
    """Few-shot examples, put with their answers before each question."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def metric(self) -> str:
        return "bits_per_byte" if isinstance(self.config, BitsPerByteTask) else "accuracy"

    @property
    def has_choices(self) -> bool:
        """Whether the model chooses among given answers."""
        return bool(self.items and self.items[0].choices)

    @property
    def digest(self) -> str:
        """Digest of items and examples, independent of the file, folder or corpus that they come from."""
        return fingerprint([asdict(item) for item in (*self.items, *self.examples)])


def read_tasks(config: EvaluateConfig, corpus: ArtifactRef, *, seed: int) -> list[TaskItems]:
    """Return every task with its items in the split; the seed draws the items of a task with a limit.

    Raises `DataError` if a task has no items.
    """
    return [_read(task, config, corpus, seed=seed) for task in config.tasks]


def items_in_split(task: Task, config: EvaluateConfig) -> list[Item]:
    """Return all items in the split of a task that needs no corpus; the task's limit is ignored."""
    return _in_split(_own_items(task)[0], config)


def place_of(passage: str) -> float:
    """Return the place of a passage in [0, 1): the shares of the splits divide this range, in their order."""
    return int.from_bytes(hashlib.sha256(f"split/{passage}".encode()).digest()[:8], "big") / 2**64


def split_of(passage: str, config: SplitConfig) -> Split:
    """Return the split of a passage and of all questions about it."""
    place = place_of(passage)
    if place < config.probe_fraction:
        return "probe"
    return "selection" if place < config.probe_fraction + config.selection_fraction else "report"


def open_book(tasks: Sequence[TaskItems], corpus: ArtifactRef) -> list[TaskItems]:
    """Return the domain's questions with their documents in the prompt, without questions whose document is unknown.

    The `passage_field` of a question names its document by the record's id; a closed-world question is about the first
    document of its entity. The documents are the ones that training reads, as a retriever would also find them.
    """
    corpus_documents = cache(partial(_corpus_documents, corpus))
    open_tasks = []
    for task in tasks:
        config = task.config
        if config.group != "domain" or not is_question(config):
            continue
        if isinstance(config, ClosedWorldTask):
            documents = closed_world.first_documents(config.seed, config.entities)
        else:
            documents = corpus_documents()
        known = [item for item in task.items if item.passage in documents]
        if known:
            items = (replace(item, prompt=f"{documents[item.passage]}\n{item.prompt}") for item in known)
            open_tasks.append(TaskItems(config, tuple(items)))
    return open_tasks


@dataclass(frozen=True, kw_only=True)
class CheckedTask:
    """Result of reading the items of a task before any work."""

    problem: DataError | None = None
    """Reason why the task cannot be asked; starts with the key of the setting."""
    num_items: int = 0
    """Number of items; 0 if they need no check or, like held-out documents, exist only after curation."""
    num_passages: int = 0
    rejected: tuple[BadRecord, ...] = ()
    texts: tuple[str, ...] = ()
    """First texts of a task that is scored in bits per byte."""


def check_task(task: Task, key: str) -> CheckedTask:
    """Read the items of a task whose settings have the key path `key`."""
    if isinstance(task, ClosedWorldTask) or (isinstance(task, BitsPerByteTask) and not task.path):
        return CheckedTask()
    try:
        items, rejected = _own_items(task)
    except DataError as error:
        place = "benchmark" if isinstance(task, BenchmarkTask) else "path"
        return CheckedTask(problem=DataError(f"{key}.{place}: {error.problem}", error.hint))
    passages = {item.cluster for item in items}
    texts = tuple(item.prompt for item in items[:_COMPARED_TEXTS]) if isinstance(task, BitsPerByteTask) else ()
    return CheckedTask(num_items=len(items), num_passages=len(passages), rejected=tuple(rejected), texts=texts)


def check_tasks(config: EvaluateConfig) -> list[str]:
    """Return the problems of the tasks' files, each with its key path and its remedy."""
    checked = [check_task(task, f"evaluate.tasks[{index}]") for index, task in enumerate(config.tasks)]
    return [str(task.problem) for task in checked if task.problem]


def _read(task: Task, config: EvaluateConfig, corpus: ArtifactRef, *, seed: int) -> TaskItems:
    rejected: list[BadRecord] = []
    if isinstance(task, BitsPerByteTask) and not task.path:
        items = heldout_items(task, corpus)
    else:
        items, rejected = _own_items(task)
    examples = _task_examples(task, items)
    # an item about the passage of an example would be answered in its own prompt
    example_passages = {example.cluster for example in examples}
    items = [item for item in items if item.cluster not in example_passages]
    split_items = _in_split(items, config)
    if not split_items:
        raise DataError(
            f"evaluation task {task.name}: none of its {len(items)} items is in the split {config.split}",
            "add items, change evaluate.splits, or, in a single run, use all items with evaluate.split: all",
        )
    drawn = _draw(split_items, task.limit, seed)
    return TaskItems(task, tuple(drawn), quarantined=tuple(rejected), examples=tuple(examples))


def _task_examples(task: Task, items: Sequence[Item]) -> list[Item]:
    """Return the few-shot examples of a task; a benchmark's description stands before the first one."""
    if isinstance(task, BenchmarkTask):
        benchmark = read_benchmark(task)
        return as_examples(benchmark, _examples(benchmark.examples or items, task.num_fewshot))
    return _examples(items, task.num_fewshot) if isinstance(task, MultipleChoiceTask) else []


def _own_items(task: Task) -> tuple[list[Item], list[BadRecord]]:
    """Return the items of a closed-world task or of a task with a file, and the rejected records."""
    if isinstance(task, ClosedWorldTask):
        return _world_items(task), []
    if isinstance(task, BenchmarkTask):
        benchmark = read_benchmark(task)
        items = benchmark.items if task.num_fewshot else with_description(benchmark, benchmark.items)
        return list(items), list(benchmark.rejected)
    return read_file(task, task_file(task))


def _world_items(task: ClosedWorldTask) -> list[Item]:
    return [
        Item(
            id=item.id,
            prompt=item.prompt,
            gold=" ".join(item.answer.split()),
            passage=f"{item.kind}/{item.entity}",
            fact=item.fact_id,
        )
        for item in closed_world.items(task)
    ]


def _corpus_documents(corpus: ArtifactRef) -> dict[str, str]:
    """Return the domain's documents by the ids of their own records."""
    import pandas as pd

    columns = ["doc_id", "source", "pool", "text"]
    frames = [pd.read_parquet(corpus.file(f"{name}.parquet"), columns=columns) for name in ("heldout", "documents")]
    documents = pd.concat(frames)
    documents = documents[documents["pool"] == "domain"]
    rows = zip(documents["doc_id"], documents["source"], documents["text"], strict=True)
    return {own_id(doc_id, source): text for doc_id, source, text in rows}


def _in_split(items: Sequence[Item], config: EvaluateConfig) -> list[Item]:
    return [item for item in items if config.split in ("all", split_of(item.cluster, config.splits))]


def _examples(items: Sequence[Item], count: int) -> list[Item]:
    """Return few-shot examples about different passages; their ids decide, so they depend on no seed or split."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(f"example:{item.id}".encode()).digest())
    by_passage: dict[str, Item] = {}
    for item in ranked:
        by_passage.setdefault(item.cluster, item)
    return list(by_passage.values())[:count]


def _draw(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """Return at most `limit` items in their order; a larger limit only adds items, and 0 draws all."""
    if not limit or len(items) <= limit:
        return list(items)
    ranked = sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())
    drawn = {item.id for item in ranked[:limit]}
    return [item for item in items if item.id in drawn]
