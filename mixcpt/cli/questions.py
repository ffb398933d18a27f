"""Tasks from a user's files of questions, and from names of benchmarks."""

import csv
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixcpt.cli.fields import Record, pick
from mixcpt.config import BenchmarkTask, MultipleChoiceTask
from mixcpt.errors import ConfigError

_QUESTION = ("question", "prompt", "query", "stem", "instruction", "problem", "input")
_CHOICES = ("choices", "options", "answers", "candidates", "endings")
_ANSWER = (
    "answer", "answerkey", "answer_key", "answer_idx", "correct_answer", "correct", "key", "label", "gold", "target"
)  # fmt: skip
_PASSAGE = ("doc_id", "passage_id", "document_id", "document", "source_id", "chapter")
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


def question_tasks(paths: Sequence[Path]) -> list[tuple[MultipleChoiceTask, int]]:
    """Return a domain task for each file of questions, and its number of records.

    Raises:
        ConfigError: If a file does not exist, has an unknown suffix or has no records.
    """
    tasks: list[tuple[MultipleChoiceTask, int]] = []
    for path in paths:
        records = _records(path)
        used = {task.name for task, _ in tasks}
        name = _task_name(path.name.partition(".")[0], used)
        fields = _fields(records[0])
        settings = {"name": name, "group": "domain", "path": str(path), **fields}
        tasks.append((MultipleChoiceTask.model_validate(settings), len(records)))
    return tasks


def benchmark_tasks(names: Sequence[str]) -> list[BenchmarkTask]:
    """Return a general task for each benchmark."""
    tasks: list[BenchmarkTask] = []
    for name in names:
        task_name = _task_name(name, {task.name for task in tasks})
        tasks.append(BenchmarkTask(name=task_name, benchmark=name))
    return tasks


def _task_name(text: str, used: set[str]) -> str:
    """Return a text as the name of a task that no other task has."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = name if name[:1].isalpha() else f"questions_{name}".rstrip("_")
    reserved = {"domain_bits_per_byte", "general_instructions", "general_text"}
    number = 2
    unique = name
    while unique in used | reserved:
        unique, number = f"{name}_{number}", number + 1
    return unique


def _records(path: Path) -> list[Record]:
    """Return the records of a file of questions; a line that cannot be read is left to the checks."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if not path.is_file():
        raise ConfigError(f"--questions: there is no file {path}", "paths are relative to the current folder")
    if suffix not in _SUFFIXES:
        raise ConfigError(f"--questions {path}: unknown suffix {suffix!r}", f"use one of {', '.join(_SUFFIXES)}")
    try:
        text = _text(path)
        records = _rows(text, suffix)
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise ConfigError(f"--questions {path} cannot be read: {error}", "repair the file") from None
    if not records:
        raise ConfigError(f"--questions {path} has no records", "give a file with questions, choices and answers")
    return records


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8-sig")


def _rows(text: str, suffix: str) -> list[Record]:
    if suffix in (".csv", ".tsv"):
        return list(csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if suffix == ".tsv" else ","))
    if suffix == ".json" and text.lstrip().startswith(("[", "{\n")):
        value = json.loads(text)
        lists = [value] if isinstance(value, list) else [part for part in value.values() if isinstance(part, list)]
        return [record for record in (lists or [[value]])[0] if isinstance(record, dict)]
    return [record for line in text.splitlines() if line.strip() and isinstance(record := json.loads(line), dict)]


def _fields(record: Record) -> dict[str, Any]:
    """Return the field names of a record, as far as they differ from the defaults."""
    names = [name for name in record if isinstance(name, str)]
    with_choices = [name for name in names if isinstance(record[name], list | Mapping)]
    found = {
        "question_field": pick(names, _QUESTION),
        "choices_field": pick(with_choices, _CHOICES),
        "answer_field": pick([name for name in names if name not in with_choices], _ANSWER),
        "passage_field": pick(names, _PASSAGE),
    }
    fields = MultipleChoiceTask.model_fields
    return {name: field for name, field in found.items() if field and field != fields[name].default}
