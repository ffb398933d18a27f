"""Reads files of texts, and of questions in the layouts that public files use.

An unusable record is quarantined with its reason, never just dropped.
"""

import gzip
import hashlib
import json
import random
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from mixcpt.config import SHIPPED_TEXT, BitsPerByteTask, MultipleChoiceTask
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef

Record: TypeAlias = Mapping[str, Any]

_SHIPPED_FILE = Path(__file__).parents[1] / "general_text" / "texts.jsonl"
_ANSWER_CUE = "Answer:"
_PASSAGE_CHARACTERS = 2000
"""Minimum length of the passages that a txt file is cut into: a single text would have no interval."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question or text that a model is evaluated on."""

    id: str
    prompt: str
    """The question, the beginning of a sentence, or a whole text that is scored in bits per byte."""
    gold: str = ""
    """The correct answer."""
    choices: tuple[str, ...] = ()
    """All choices, with `gold` exactly once among them; empty if the model answers freely."""
    passage: str = ""
    """Name of the passage that the item is about, since such items are dependent; empty if the item is independent."""
    fact: str = ""
    """Name of the fact that the item asks for, shared by items of several tasks; empty if no other item asks for it."""

    @property
    def cluster(self) -> str:
        """Name of the passage; the item's own id if it is independent."""
        return self.passage or self.id

    @property
    def chance(self) -> float:
        """Probability that a random choice is correct; 0 without choices."""
        return 1 / len(self.choices) if self.choices else 0.0


@dataclass(frozen=True)
class BadRecord:
    """An unusable record and the reason."""

    file: str
    line: int
    field: str
    reason: str


class RecordFault(ValueError):
    """A fault in a record, raised with field and reason; `read_file` turns it into a `BadRecord`."""


Parse: TypeAlias = Callable[[Record, str], Item]
"""Function that makes an item from a record, or raises `RecordFault`; the second argument replaces a missing id."""


def read_file(
    task: MultipleChoiceTask | BitsPerByteTask, path: Path, *, max_lines: int = 0
) -> tuple[list[Item], list[BadRecord]]:
    """Return the usable records of a task's file as items, and the rejected ones with their reasons.

    The file is jsonl (`max_lines` limits the lines that are read; 0 reads all) or, for texts, txt (cut into passages).
    It may be gzip-compressed.

    Raises:
        DataError: If the file cannot be read, is empty, or has no usable record.
    """
    if isinstance(task, MultipleChoiceTask):
        return _read_lines(path, partial(_parse_choice, task), max_lines)
    return _read_lines(path, _parse_text, max_lines) if is_jsonl(path) else (_passages(path), [])


def task_file(task: MultipleChoiceTask | BitsPerByteTask) -> Path:
    """Return the path of a task's file; `shipped` is the general text that comes with mixcpt."""
    if isinstance(task, BitsPerByteTask) and task.path == SHIPPED_TEXT:
        return _SHIPPED_FILE
    return Path(task.path).expanduser()


def is_jsonl(path: Path) -> bool:
    """Return whether a file name ends in .jsonl or .jsonl.gz."""
    return path.name.removesuffix(".gz").endswith(".jsonl")


def _read_lines(path: Path, parse: Parse, max_lines: int) -> tuple[list[Item], list[BadRecord]]:
    items: dict[str, Item] = {}
    rejected: list[BadRecord] = []
    numbered = ((number, line) for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1) if line.strip())
    for number, line in islice(numbered, max_lines or None):
        try:
            item = parse(_record(line), f"{path.name}:{number}")
            if item.id in items:
                raise RecordFault("id", f"{item.id!r} is the id of an earlier record")
            items[item.id] = item
        except RecordFault as fault:
            rejected.append(BadRecord(str(path), number, *fault.args))
    if not items:
        raise _nothing_usable(path, rejected)
    return list(items.values()), rejected


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in .gz; raise `DataError` if it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "check the path; it is relative to the current folder"
        raise DataError(f"cannot read {path}: {error.strerror}", hint) from error
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}", "download or compress it again") from error


def heldout_texts(task: BitsPerByteTask, corpus: ArtifactRef) -> list[Item]:
    """Return the held-out documents of the task's pool or source; raise `DataError` if there are none."""
    import pandas as pd

    documents = pd.read_parquet(corpus.file("heldout.parquet"), columns=["doc_id", "source", "pool", "text"])
    documents = documents[documents["pool"] == task.heldout_pool]
    if task.source:
        documents = documents[documents["source"] == task.source]
    if documents.empty:
        raise DataError(
            f"evaluation task {task.name}: no document of {task.source or f'the {task.heldout_pool} pool'} is held out",
            "raise curation.heldout_fraction, add documents to the pool, or remove the task",
        )
    rows = zip(documents["doc_id"], documents["text"], strict=True)
    return [Item(id=str(doc_id), prompt=text) for doc_id, text in rows]


def _parse_choice(task: MultipleChoiceTask, record: Record, fallback: str) -> Item:
    identity = _item_id(record, fallback)
    prompt = _prompt(_text_field(record, task.question_field))
    if task.distractor_fields:
        gold, choices = _with_distractors(task, record, identity)
    else:
        gold, choices = _with_key(task, record)
    if choices.count(gold) > 1:
        raise RecordFault(task.choices_field, f"contains the correct choice {gold!r} more than once")
    passage = _passage_of(record, task.passage_field)
    return Item(id=identity, prompt=prompt, gold=gold, choices=choices, passage=passage)


def _text_field(record: Record, field: str) -> str:
    """Return the text of a field without surrounding white space; raise `RecordFault` if there is none."""
    return _clean_text(_field_value(record, field), field)


def _field_value(record: Record, field: str) -> Any:
    """Return the value of a field; raise `RecordFault` if the record does not have it."""
    if field not in record:
        raise RecordFault(field, f"is missing; the record has: {', '.join(record)}")
    return record[field]


def _clean_text(value: Any, field: str) -> str:
    """Return a text without surrounding white space; raise `RecordFault` if it is empty or not valid text."""
    if not isinstance(value, str):
        raise RecordFault(field, f"is a {type(value).__name__} instead of a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RecordFault(field, "contains half a character (a lone surrogate)") from None
    if not (text := value.strip()):
        raise RecordFault(field, "is empty")
    return text


def _item_id(record: Record, fallback: str) -> str:
    """Return the record's own id, or `fallback` if it has none."""
    identity = record.get("id")
    return str(identity) if isinstance(identity, str | int) and str(identity) else fallback


def own_id(doc_id: str, source: str) -> str:
    """Return the id from a document's own record: curation adds the source's name in front of it."""
    return doc_id.removeprefix(f"{source}/")


def _passage_of(record: Record, field: str) -> str:
    """Return the name of the passage that a record is about; empty if it names none."""
    name = record.get(field)
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:  # malformed JSON or UTF-8
        raise RecordFault("(line)", f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise RecordFault("(line)", f"contains a {type(record).__name__} instead of an object")
    return record


def _prompt(question: str) -> str:
    """Return `Question: ... Answer:`, the prompt of lm-eval's ARC and SciQ; a prompt that ends in the cue is kept."""
    return question if question.endswith(_ANSWER_CUE) else f"Question: {question}\n{_ANSWER_CUE}"


def _with_distractors(task: MultipleChoiceTask, record: Record, identity: str) -> tuple[str, tuple[str, ...]]:
    gold = _text_field(record, task.answer_field)
    choices = [gold, *(_text_field(record, field) for field in task.distractor_fields)]
    # seeded by the item's id: the order of the choices is the same in every run
    random.Random(hashlib.sha256(identity.encode()).digest()).shuffle(choices)
    return gold, tuple(choices)


def _with_key(task: MultipleChoiceTask, record: Record) -> tuple[str, tuple[str, ...]]:
    choices, labels = _labelled_choices(_field_value(record, task.choices_field), task.choices_field)
    index = _index(_field_value(record, task.answer_field), choices, labels, field=task.answer_field)
    return choices[index], choices


def _labelled_choices(texts: Any, field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the choices and their labels: A, B, ... unless the record has its own.

    ARC and OpenBookQA write them as `{"text": [...], "label": [...]}`.
    """
    labels: Any = ()
    if isinstance(texts, dict):
        texts, labels = texts.get("text"), texts.get("label", ())
    if not isinstance(texts, list) or len(texts) < 2:
        raise RecordFault(field, "is not a list of two or more choices")
    choices = tuple(_clean_text(text, field) for text in texts)
    if isinstance(labels, list) and len(labels) == len(choices):
        return choices, tuple(str(label) for label in labels)
    return choices, tuple(chr(ord("A") + index) for index in range(len(choices)))


def _index(answer: object, choices: tuple[str, ...], labels: tuple[str, ...], *, field: str) -> int:
    """Return the index of the correct choice, which the record gives as a text, a label, or an index from 0."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
        raise RecordFault(field, f"is {answer}, but there are {len(choices)} choices, counted from 0")
    text = _clean_text(answer, field)
    for names in (choices, labels):
        if text in names:
            return names.index(text)
    raise RecordFault(field, f"is {text!r}, which is neither a choice nor one of {', '.join(labels)}")


def _parse_text(record: Record, fallback: str) -> Item:
    return Item(id=_item_id(record, fallback), prompt=_text_field(record, "text"))


def _passages(path: Path) -> list[Item]:
    """Return the passages of a txt file, cut at blank lines."""
    try:
        text = _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from None
    passages = [""]
    for paragraph in re.split(r"\n[ \t]*\n\s*", "\n".join(text.strip().splitlines())):
        if len(passages[-1]) >= _PASSAGE_CHARACTERS:
            passages.append("")
        passages[-1] = f"{passages[-1]}\n\n{paragraph}".strip()
    if not passages[0]:
        raise DataError(f"{path} is empty", "give a file with text")
    return [Item(id=f"{path.name}#{number}", prompt=passage) for number, passage in enumerate(passages, start=1)]


def _nothing_usable(path: Path, rejected: list[BadRecord]) -> DataError:
    if not rejected:
        return DataError(f"{path} is empty", "give a file with one JSON object per line")
    first = rejected[0]
    example = f"line {first.line}, field {first.field}: {first.reason}"
    return DataError(
        f"{path}: none of {len(rejected)} records can be used; the first, {example}",
        "set the field names in the task's settings, or repair the file",
    )
