"""Multiple-choice questions: reads question, choices and answer in the layouts that public files use."""

import hashlib
import random
from typing import Any

from mixcpt.config import MultipleChoiceTask
from mixcpt.evaluate.asking.items import Item, Record, RecordFault, clean_text, item_id, passage_of, text_field

_ANSWER_CUE = "Answer:"


def parse_choice(task: MultipleChoiceTask, record: Record, fallback: str) -> Item:
    """Return the item of a record of the task's file; raise `RecordFault` if the record cannot be used."""
    identity = item_id(record, fallback)
    prompt = _prompt(text_field(record, task.question_field))
    if task.distractor_fields:
        gold, choices = _with_distractors(task, record, identity)
    else:
        gold, choices = _with_key(task, record)
    if choices.count(gold) > 1:
        raise RecordFault(task.choices_field, f"contains the correct choice {gold!r} more than once")
    passage = passage_of(record, task.passage_field)
    return Item(id=identity, prompt=prompt, gold=gold, choices=choices, passage=passage)


def _prompt(question: str) -> str:
    """Return `Question: ... Answer:`, the prompt of lm-eval's ARC and SciQ; a prompt that ends in the cue is kept."""
    return question if question.endswith(_ANSWER_CUE) else f"Question: {question}\n{_ANSWER_CUE}"


def _with_distractors(task: MultipleChoiceTask, record: Record, identity: str) -> tuple[str, tuple[str, ...]]:
    gold = text_field(record, task.answer_field)
    choices = [gold, *(text_field(record, field) for field in task.distractor_fields)]
    # seeded by the item's id: the order of the choices is the same in every run
    random.Random(hashlib.sha256(identity.encode()).digest()).shuffle(choices)
    return gold, tuple(choices)


def _with_key(task: MultipleChoiceTask, record: Record) -> tuple[str, tuple[str, ...]]:
    choices, labels = _labelled_choices(task, record)
    if task.answer_field not in record:
        raise RecordFault(task.answer_field, f"is missing; the record has: {', '.join(record)}")
    index = _index(record[task.answer_field], choices, labels, field=task.answer_field)
    return choices[index], choices


def _labelled_choices(task: MultipleChoiceTask, record: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the choices and their labels: A, B, ... unless the record has its own.

    ARC and OpenBookQA write them as `{"text": [...], "label": [...]}`.
    """
    field = task.choices_field
    if field not in record:
        raise RecordFault(field, f"is missing; the record has: {', '.join(record)}")
    texts: Any = record[field]
    labels: Any = ()
    if isinstance(texts, dict):
        texts, labels = texts.get("text"), texts.get("label", ())
    if not isinstance(texts, list) or len(texts) < 2:
        raise RecordFault(field, "is not a list of two or more choices")
    choices = tuple(clean_text(text, field) for text in texts)
    if isinstance(labels, list) and len(labels) == len(choices):
        return choices, tuple(str(label) for label in labels)
    return choices, tuple(chr(ord("A") + index) for index in range(len(choices)))


def _index(answer: object, choices: tuple[str, ...], labels: tuple[str, ...], *, field: str) -> int:
    """Return the index of the correct choice, which the record gives as a text, a label, or an index from 0."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
        raise RecordFault(field, f"is {answer}, but there are {len(choices)} choices, counted from 0")
    text = clean_text(answer, field)
    for names in (choices, labels):
        if text in names:
            return names.index(text)
    raise RecordFault(field, f"is {text!r}, which is neither a choice nor one of {', '.join(labels)}")
