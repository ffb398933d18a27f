"""Benchmarks of lm-eval as items: its task writes the prompts and choices, as in other reports."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from mixcpt.config import BenchmarkTask
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.records import BadRecord, RecordFault

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LmTask

_MEASURED = ("multiple_choice", "loglikelihood")
_PASSAGE_FIELDS = ("doc_id", "passage_id", "article_id")
_NAME_LINE = re.compile(r"""^(?:task|group|tag):\s*["']?([^\s"'#]+)""", re.MULTILINE)
_MAX_REASON_CHARACTERS = 300
_MAX_CONNECT_SECONDS = 3


@dataclass(frozen=True)
class Benchmark:
    """Items of a benchmark. An answer begins with the white space that lm-eval puts between prompt and answer."""

    items: tuple[Item, ...]
    rejected: tuple[BadRecord, ...]
    examples: tuple[Item, ...]
    """Items to draw examples with answers from; they are never asked."""
    description: str
    """Text before the first question or example."""
    example_delimiter: str
    """White space before the answer of an example, if it is not part of the answer."""


def read_benchmark(task: BenchmarkTask) -> Benchmark:
    """Return the items of a benchmark; its data are downloaded if they are neither local nor in the cache.

    Raises:
        DataError: If the benchmark does not exist, is of a kind that cannot be measured, or has no reachable data.
    """
    return _read(task.benchmark, task.include_path, bool(task.num_fewshot))


def with_description(benchmark: Benchmark, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return items whose prompts begin with the description of the benchmark."""
    return tuple(replace(item, prompt=benchmark.description + item.prompt) for item in items)


def as_examples(benchmark: Benchmark, items: Sequence[Item]) -> list[Item]:
    """Return items as few-shot examples, the first one with the description of the benchmark."""
    examples = [replace(item, gold=benchmark.example_delimiter + item.gold) for item in items]
    return [*with_description(benchmark, tuple(examples[:1])), *examples[1:]]


@cache
def _read(name: str, include_path: str, with_examples: bool) -> Benchmark:
    lm_task = _load(name, include_path)
    output_type = str(lm_task.OUTPUT_TYPE)
    if output_type not in _MEASURED:
        raise DataError(
            f"the benchmark {name} has the output type {output_type}; only {' and '.join(_MEASURED)} are measured",
            "choose a benchmark with keyed choices, or give its questions as a file of multiple choice",
        )
    items, rejected = _items(name, lm_task, lm_task.eval_docs)
    if not items:
        reason = f": {rejected[0].field} {rejected[0].reason}" if rejected else ""
        raise DataError(f"the benchmark {name} has no usable question{reason}", "choose another benchmark")
    examples: list[Item] = []
    if with_examples and (lm_task.has_training_docs() or lm_task.config.fewshot_split):
        docs = list(lm_task.fewshot_docs())
        examples, _ = _items(f"{name}/example", lm_task, docs)
    description = str(lm_task.config.description or "")
    return Benchmark(
        items=tuple(items),
        rejected=tuple(rejected),
        examples=tuple(examples),
        description=description,
        # lm-eval scores a completion without the delimiter, but shows it in examples
        example_delimiter=str(lm_task.config.target_delimiter) if output_type == "loglikelihood" else "",
    )


def _load(name: str, include_path: str) -> "LmTask":
    """Return the lm-eval task of a benchmark with its data."""
    from lm_eval.tasks import TaskManager

    folder = _folder(name, include_path)
    try:
        with _cache_only_if_away():
            loaded = TaskManager(include_path=str(folder), include_defaults=False).load([name])
    except Exception as error:  # noqa: BLE001 - lm-eval, datasets and the hub raise errors of any kind
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON_CHARACTERS]
        raise DataError(
            f"the benchmark {name} cannot be loaded: {reason}",
            "connect to the hub once so that its data are in the cache, give a local copy in a YAML of your own "
            "(include_path), or remove the task",
        ) from None
    tasks: Mapping[str, LmTask] = loaded["tasks"]
    if name not in tasks:
        members = ", ".join(list(tasks)[:5]) or "none"
        raise DataError(
            f"{name} is a group of {len(tasks)} benchmarks", f"name one of them in the task, for instance {members}"
        )
    return tasks[name]


@contextmanager
def _cache_only_if_away() -> Iterator[None]:
    """Use only the cache if the hub cannot be reached, instead of many attempts that take half a minute."""
    import datasets.config
    from huggingface_hub import constants

    modules: tuple[Any, ...] = (constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    is_away = not getproxies() and not _is_reachable(str(constants.ENDPOINT))
    for module in modules:
        module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE or is_away
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _is_reachable(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_MAX_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _folder(name: str, include_path: str) -> Path:
    """Return the folder with the YAML of a benchmark; raise `DataError` if there is none."""
    if include_path:
        root = Path(include_path).expanduser()
        if not root.is_dir():
            raise DataError(f"include_path {root} is not a folder", "check the path; it is relative to the folder here")
        names = _names(root)
    else:
        import lm_eval.tasks

        names = _names(Path(lm_eval.tasks.__file__).parent)
    if name in names:
        return names[name].parent
    similar = get_close_matches(name, names, n=3)
    place = include_path or "lm-eval"
    raise DataError(
        f"{name} is not a benchmark of {place}",
        f"did you mean {' or '.join(similar)}?" if similar else "`lm_eval ls tasks` lists the benchmarks of lm-eval",
    )


@cache
def _names(root: Path) -> dict[str, Path]:
    """Return the file of every benchmark and group below a folder; reading the names parses no YAML."""
    names: dict[str, Path] = {}
    for path in sorted(chain(root.rglob("*.yaml"), root.rglob("*.yml"))):
        for name in _NAME_LINE.findall(path.read_text(encoding="utf-8", errors="replace")):
            names.setdefault(name, path)
    return names


def _items(name: str, lm_task: "LmTask", docs: Any) -> tuple[list[Item], list[BadRecord]]:
    items: dict[str, Item] = {}
    rejected: list[BadRecord] = []
    for number, doc in enumerate(docs, start=1):
        try:
            item = _item(lm_task, doc, f"{name}:{number}")
            items[item.id] = item
        except RecordFault as fault:
            rejected.append(BadRecord(name, number, *fault.args))
    return list(items.values()), rejected


def _item(lm_task: "LmTask", doc: Mapping[str, Any], identity: str) -> Item:
    prompt, target = lm_task.doc_to_text(doc), lm_task.doc_to_target(doc)
    if not isinstance(prompt, str):
        raise RecordFault("doc_to_text", "has one prompt per choice, which is not measured")
    delimiter = str(lm_task.config.target_delimiter)
    passage = next((str(doc[field]) for field in _PASSAGE_FIELDS if isinstance(doc.get(field), str | int)), "")
    if lm_task.OUTPUT_TYPE == "loglikelihood":
        return Item(id=identity, prompt=prompt, gold=str(target), passage=passage)
    choices = tuple(f"{delimiter}{choice}" for choice in lm_task.doc_to_choice(doc))
    place = next(_places(target, [choice.removeprefix(delimiter) for choice in choices]), -1)
    if not 0 <= place < len(choices):
        raise RecordFault("doc_to_target", f"is {target!r}, which is none of {len(choices)} choices")
    if choices.count(choices[place]) > 1:
        raise RecordFault("doc_to_choice", f"contains the correct choice {choices[place].strip()!r} more than once")
    return Item(id=identity, prompt=prompt, gold=choices[place], choices=choices, passage=passage)


def _places(target: Any, choices: list[str]) -> Iterator[int]:
    """Yield the places of the correct choice, which is given by its index or its text."""
    if isinstance(target, int):
        yield target
    elif target in choices:
        yield choices.index(target)
