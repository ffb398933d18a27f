"""Multiple-choice questions in the layouts that public files use: lists, letters or columns of choices, and their keys.

The columns of the choices, and whether an index counts from 0 or 1, are properties of the whole file: they follow from
all records, and a file that leaves them open is refused.
"""

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixcpt.config import MultipleChoiceTask
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.records import (
    BadRecord,
    Record,
    RecordFault,
    Row,
    clean_text,
    field_value,
    item_id,
    literal,
    nothing_usable,
    read_rows,
    text_field,
)

_ANSWER_CUE = "Answer:"
_COLUMN_WORDS = (
    "", "option", "options", "opt", "op", "choice", "choices", "answer", "ans", "ending", "sol", "solution",
    "candidate", "alternative", "response",
)  # fmt: skip
_COLUMN = re.compile(r"(?P<word>.*?)[ _.-]*(?P<mark>[a-jA-J]|\d)$")
_LETTER = re.compile(r"[(\[]?\s*(?:(?:option|choice|answer)\s*:?\s*)?([A-Za-z])\s*[)\].:]?", re.IGNORECASE)
_MAX_CHOICES = 10

Kind = Literal["text", "label", "index"]


@dataclass(frozen=True)
class _Choices:
    """Choices of one record with the names that a key can give them."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    """One label per choice, e.g. A, B, C."""
    columns: tuple[str, ...] = ()
    """Column per choice; empty for a list."""
    are_numbers: bool = False
    """Whether the record has the choices as numbers, so that a number can be the text of a choice."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Properties of a file that its records share."""

    columns: tuple[str, ...] = ()
    """Columns with one choice each; empty if the records have lists."""
    kind_of_doubt: Kind = "text"
    """Meaning of a key that can be both the text and the label or index of two choices."""
    first_index: int = 0
    """Number of the first choice in an index."""


def read_choices(task: MultipleChoiceTask, path: Path) -> tuple[list[Item], list[BadRecord]]:
    """Return the usable questions of a file, and the rejected records with their reasons.

    Raises:
        DataError: If the file cannot be read, has no usable record, or leaves the meaning of its keys open.
    """
    rows = read_rows(path)
    layout = _layout(task, path, rows)
    items: dict[str, Item] = {}
    rejected: list[BadRecord] = []
    for row in rows:
        try:
            item = _item(task, layout, row, f"{path.name}:{row.name}")
            if item.id in items:
                raise RecordFault("id", f"{item.id!r} is the id of an earlier record")
            items[item.id] = item
        except RecordFault as fault:
            rejected.append(BadRecord(str(path), row.line, *fault.args))
    if not items:
        raise nothing_usable(path, rows, rejected)
    return list(items.values()), rejected


def _layout(task: MultipleChoiceTask, path: Path, rows: Sequence[Row]) -> _Layout:
    """Return the layout of a file; raise `DataError` if the records leave it open."""
    records = [row.record for row in rows if not row.fault]
    if task.distractor_fields:
        _require_no_letters(task, path, rows)
        return _Layout()
    columns = task.choice_fields
    if not columns and records and not any(task.choices_field in record for record in records):
        columns = _choice_columns(task, path, records[0])
    return _with_keys(task, path, rows, _Layout(columns=columns))


def _choice_columns(task: MultipleChoiceTask, path: Path, record: Record) -> tuple[str, ...]:
    """Return the columns with one choice each, found by their names; empty if there are none."""
    groups: dict[tuple[str, bool], dict[str, str]] = {}
    for name in record:
        found = _COLUMN.fullmatch(name)
        if found and name not in (task.question_field, task.answer_field, task.passage_field, "id"):
            mark = found["mark"].lower()
            if (word := found["word"].lower().strip(" _.-")) in _COLUMN_WORDS and (word or mark.isalpha()):
                groups.setdefault((word, mark.isdigit()), {})[mark] = name
    series = [columns for group in groups.values() if len(columns := _series(group)) > 1]
    if len(series) > 1:
        raise DataError(
            f"{path} has several series of choices: {'; '.join(', '.join(columns) for columns in series)}",
            "name the columns with the choices in choice_fields",
        )
    return series[0] if series else ()


def _series(group: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns of a group in the order of their letters or numbers, as far as none is missing."""
    first = next((mark for mark in ("a", "0", "1") if mark in group), "")
    columns: list[str] = []
    for offset in range(_MAX_CHOICES if first else 0):
        if (mark := chr(ord(first) + offset)) not in group:
            break
        columns.append(group[mark])
    return tuple(columns)


def _with_keys(task: MultipleChoiceTask, path: Path, rows: Sequence[Row], layout: _Layout) -> _Layout:
    """Return the layout with the meaning of the keys, as far as the records show it."""
    kinds: dict[Kind, int] = {"text": 0, "label": 0, "index": 0}
    indices: list[tuple[int, int, int]] = []
    doubts = 0
    for row in rows:
        try:
            choices = _record_choices(task, layout, row.record)
            key = _key(field_value(row.record, task.answer_field), task.answer_field)
        except RecordFault:
            continue
        possible = _meanings(key, choices)
        if len(possible) == 1:
            kinds[next(iter(possible))] += 1
        doubts += len(possible) > 1
        if "index" in possible:
            indices.append((int(possible["index"]), len(choices.texts), row.line))
    certain_index = kinds["index"] > 0
    doubt: Kind = "text"
    if doubts and not kinds["text"]:
        doubt = "label" if kinds["label"] and not certain_index else "index" if certain_index else "text"
    if not (certain_index or doubt == "index"):
        return _Layout(columns=layout.columns, kind_of_doubt=doubt)
    return _Layout(columns=layout.columns, kind_of_doubt=doubt, first_index=_first_index(task, path, indices))


def _first_index(task: MultipleChoiceTask, path: Path, indices: Sequence[tuple[int, int, int]]) -> int:
    """Return the number of the first choice; raise `DataError` if the indices of the file do not show it."""
    if task.indices_from != "detected":
        return {"zero": 0, "one": 1}[task.indices_from]
    values = {value for value, _, _ in indices}
    if 0 in values:
        return 0
    if any(value == num_choices for value, num_choices, _ in indices):
        return 1
    usable = [(value, line) for value, num_choices, line in indices if 0 < value < num_choices]
    if not usable:
        return 0
    value, line = usable[0]
    raise DataError(
        f"{path}, line {line}, field {task.answer_field}: {value} is an index, but no record shows whether indices "
        "count from 0 or 1: neither 0 nor the number of choices occurs",
        "set indices_from: zero or indices_from: one in the task",
    )


def _require_no_letters(task: MultipleChoiceTask, path: Path, rows: Sequence[Row]) -> None:
    """Raise `DataError` if the answers are letters of the columns that are named as wrong choices."""
    answers, others = [], []
    for row in rows:
        if not row.fault and isinstance(answer := row.record.get(task.answer_field), str | int):
            answers.append(str(answer).strip())
            others += [str(row.record.get(field, "")).strip() for field in task.distractor_fields]
    are_keys = [_is_short_key(answer, task.distractor_fields) for answer in answers]
    if answers and all(are_keys) and not all(_is_short_key(text, ()) for text in others):
        fields = ", ".join(task.distractor_fields)
        raise DataError(
            f"{path}: field {task.answer_field} has keys such as {answers[0]!r} instead of the text of the correct "
            f"answer, so {fields} are all choices and not only the wrong ones",
            f"set choice_fields: [{fields}] and remove distractor_fields",
        )


def _is_short_key(text: str, columns: Sequence[str]) -> bool:
    return bool(_LETTER.fullmatch(text)) or text.isdigit() or text in columns


def _item(task: MultipleChoiceTask, layout: _Layout, row: Row, fallback: str) -> Item:
    if row.fault:
        raise row.fault
    record = row.record
    identity = item_id(record, fallback)
    question = text_field(record, task.question_field)
    if task.distractor_fields:
        gold, choices = _with_distractors(task, record, identity)
    else:
        gold, choices = _with_key(task, layout, record)
    field = task.answer_field if task.distractor_fields or layout.columns else task.choices_field
    if choices.count(gold) > 1:
        raise RecordFault(field, f"contains the correct choice {gold!r} more than once")
    if twice := [text for text in choices if choices.count(text) > 1]:
        raise RecordFault(field, f"contains the choice {twice[0]!r} more than once")
    return Item(
        id=identity,
        prompt=_prompt(question),
        gold=gold,
        choices=choices,
        passage=_passage_of(record, task.passage_field),
    )


def _prompt(question: str) -> str:
    """Return `Question: ... Answer:`, the prompt of lm-eval's ARC and SciQ; a prompt that ends in the cue is kept."""
    return question if question.endswith(_ANSWER_CUE) else f"Question: {question}\n{_ANSWER_CUE}"


def _passage_of(record: Record, field: str) -> str:
    """Return the name of the passage that a record is about; empty if it names none."""
    name = record.get(field)
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""


def _with_distractors(task: MultipleChoiceTask, record: Record, identity: str) -> tuple[str, tuple[str, ...]]:
    gold = text_field(record, task.answer_field)
    choices = [gold, *(text_field(record, field) for field in task.distractor_fields)]
    # seeded by the item's id: the order of the choices is the same in every run
    random.Random(hashlib.sha256(identity.encode()).digest()).shuffle(choices)
    return gold, tuple(choices)


def _with_key(task: MultipleChoiceTask, layout: _Layout, record: Record) -> tuple[str, tuple[str, ...]]:
    choices = _record_choices(task, layout, record)
    key = _key(field_value(record, task.answer_field), task.answer_field)
    possible = _meanings(key, choices)
    kind: Kind = next(iter(possible)) if len(possible) == 1 else layout.kind_of_doubt
    if kind not in possible and possible:
        kind = next(iter(possible))
    place = possible.get(kind)
    if kind == "index" and place is not None:
        place -= layout.first_index
    if place is not None and 0 <= place < len(choices.texts):
        return choices.texts[place], choices.texts
    if isinstance(key, int) or (place is not None and key.isdigit()):
        counted = f"there are {len(choices.texts)} choices, counted from {layout.first_index}"
        raise RecordFault(task.answer_field, f"is {key}, but {counted}")
    raise RecordFault(
        task.answer_field, f"is {key!r}, which is neither a choice nor one of {', '.join(choices.labels)}"
    )


def _record_choices(task: MultipleChoiceTask, layout: _Layout, record: Record) -> _Choices:
    if not layout.columns:
        return _listed_choices(field_value(record, task.choices_field), task.choices_field)
    filled = [name for name in layout.columns if not _is_blank(field_value(record, name))]
    if len(filled) < 2:
        raise RecordFault(layout.columns[0], f"and the other choices are empty, but for {len(filled)}")
    letters = [chr(ord("A") + layout.columns.index(name)) for name in filled]
    return _Choices(
        texts=tuple(_choice_text(record[name], name) for name in filled),
        labels=tuple(letters),
        columns=tuple(filled),
        are_numbers=all(_is_number(record[name]) for name in filled),
    )


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choice_text(value: Any, field: str) -> str:
    """Return a choice as text; a number is written as in the file."""
    if isinstance(value, list | dict):
        raise RecordFault(field, f"has a {type(value).__name__} as a choice instead of a text")
    return clean_text(str(value) if _is_number(value) else value, field)


def _listed_choices(texts: Any, field: str) -> _Choices:
    """Return the choices of a list, of `{"text": [...], "label": [...]}` or of `{"A": ..., "B": ...}`."""
    labels: Any = ()
    if isinstance(texts, str):
        texts = literal(texts)
    if isinstance(texts, dict):
        if isinstance(texts.get("text"), list):
            texts, labels = texts["text"], texts.get("label", ())
        else:
            filled = {str(label): text for label, text in texts.items() if not _is_blank(text)}
            texts, labels = list(filled.values()), list(filled)
    if isinstance(texts, list) and texts and all(isinstance(part, dict) and "text" in part for part in texts):
        labels = [part.get("label", part.get("key", "")) for part in texts]
        texts = [part["text"] for part in texts]
    if not isinstance(texts, list) or len(texts) < 2:
        raise RecordFault(field, "is not a list of two or more choices")
    choices = tuple(_choice_text(text, field) for text in texts)
    are_numbers = all(_is_number(text) for text in texts)
    if not (isinstance(labels, list) and len(labels) == len(choices) and all(map(str, labels))):
        labels = [chr(ord("A") + index) for index in range(len(choices))]
    return _Choices(choices, tuple(str(label).strip() for label in labels), are_numbers=are_numbers)


def _key(answer: Any, field: str) -> str | int:
    """Return a key as an index or a text; raise `RecordFault` for another type."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, float) and math.isfinite(answer) and answer == int(answer):
        return int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    return clean_text(answer, field)


def _meanings(key: str | int, choices: _Choices) -> dict[Kind, int]:
    """Return the place of the choice for each possible meaning of a key; an index is returned as it is written."""
    places: dict[Kind, int | None] = {}
    if isinstance(key, int):
        if choices.are_numbers:
            places["text"] = _text_place(str(key), choices.texts)
        if str(key) in choices.labels:  # own numeric labels have precedence over an index
            places["label"] = choices.labels.index(str(key))
        else:
            places["index"] = key
    else:
        places["text"] = _text_place(key, choices.texts)
        places["label"] = _label_place(key, choices)
        if places["label"] is None and re.fullmatch(r"\d{1,3}(\.0)?", key):
            places["index"] = int(float(key))
    found = {kind: place for kind, place in places.items() if place is not None}
    if len(found) == 2 and found.get("text") == found.get("label"):
        del found["label"]
    return found


def _text_place(key: str, texts: Sequence[str]) -> int | None:
    """Return the place of the choice with this text, otherwise of the only one that differs in case or spaces."""
    if key in texts:
        return texts.index(key)
    plain = [_plain(text) for text in texts]
    return plain.index(_plain(key)) if plain.count(_plain(key)) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _label_place(key: str, choices: _Choices) -> int | None:
    for names in (choices.labels, choices.columns):
        if key in names:
            return names.index(key)
    folded = [label.casefold() for label in choices.labels]
    if (letter := _LETTER.fullmatch(key)) and letter[1].casefold() in folded:
        return folded.index(letter[1].casefold())
    # "B. Paris" or "(B) Paris": a letter with the text of its choice
    label, _, text = key.lstrip("([").partition(" ")
    label = label.rstrip(".):]")
    place = folded.index(label.casefold()) if label.casefold() in folded else None
    return place if place is not None and _plain(text) == _plain(choices.texts[place]) else None
