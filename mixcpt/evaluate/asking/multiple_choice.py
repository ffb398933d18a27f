"""Multiple-choice questions: a record's question, choices and answer, in the spellings that public files use."""

import hashlib
import random
from functools import partial
from typing import Any

from mixcpt.config import MultipleChoiceTask
from mixcpt.evaluate.asking.items import Item, Parse, Record, RecordFault, clean_text, item_id, passage_of, text_field

_ANSWER_CUE = "Answer:"


def choice_parser(task: MultipleChoiceTask) -> Parse:
    """Returns the function that makes an item of a record of this task's file."""
    return partial(_parse, task)


def _parse(task: MultipleChoiceTask, record: Record, fallback: str) -> Item:
    identity = item_id(record, fallback)
    prompt = _prompt(text_field(record, task.question_field))
    if task.distractor_fields:
        gold, choices = _with_distractors(task, record, identity)
    else:
        gold, choices = _with_key(task, record)
    if choices.count(gold) > 1:
        raise RecordFault(task.choices_field, f"has the right choice {gold!r} more than once")
    return Item(identity, prompt, gold, choices, passage_of(record, task.passage_field))


def _prompt(question: str) -> str:
    """Returns `Question: ... Answer:`, as lm-eval's ARC and SciQ ask; one that ends in the cue stays as it is."""
    return question if question.endswith(_ANSWER_CUE) else f"Question: {question}\n{_ANSWER_CUE}"


def _with_distractors(task: MultipleChoiceTask, record: Record, identity: str) -> tuple[str, tuple[str, ...]]:
    gold = text_field(record, task.answer_field)
    choices = [gold, *(text_field(record, field) for field in task.distractor_fields)]
    # by the item's name: the right choice stands where chance puts it, in every run and under every seed
    random.Random(hashlib.sha256(identity.encode()).digest()).shuffle(choices)
    return gold, tuple(choices)


def _with_key(task: MultipleChoiceTask, record: Record) -> tuple[str, tuple[str, ...]]:
    choices, labels = _labelled_choices(task, record)
    if task.answer_field not in record:
        raise RecordFault(task.answer_field, f"is missing; the record has: {', '.join(record)}")
    return choices[_index(record[task.answer_field], choices, labels, task.answer_field)], choices


def _labelled_choices(task: MultipleChoiceTask, record: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the choices and their labels; `{"text": [...], "label": [...]}` is the form of ARC and OpenBookQA."""
    field = task.choices_field
    if field not in record:
        raise RecordFault(field, f"is missing; the record has: {', '.join(record)}")
    given: Any = record[field]
    labels: Any = ()
    if isinstance(given, dict):
        given, labels = given.get("text"), given.get("label", ())
    if not isinstance(given, list) or len(given) < 2:
        raise RecordFault(field, "is no list of two or more choices")
    choices = tuple(clean_text(choice, field) for choice in given)
    if isinstance(labels, list) and len(labels) == len(choices):
        return choices, tuple(str(label) for label in labels)
    return choices, tuple(chr(ord("A") + index) for index in range(len(choices)))


def _index(answer: object, choices: tuple[str, ...], labels: tuple[str, ...], field: str) -> int:
    """Returns which choice is right: told by its text, its label, or its index from 0."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
        raise RecordFault(field, f"is {answer}, but there are {len(choices)} choices, counted from 0")
    text = clean_text(answer, field)
    for names in (choices, labels):
        if text in names:
            return names.index(text)
    raise RecordFault(field, f"is {text!r}, which is neither a choice nor one of {', '.join(labels)}")
