"""Local lm-eval task definitions: how items become prompts, and how answers are marked.

Plain form: a closed-world question is followed by a line break, as the knowledge mixture writes it; choices follow
`Answer:` and a space. Chat form: the same text is the user's turn, and the answer the assistant's.
A document's beginning (`memory`) and a text whose bits are counted are never a chat turn: they are plain in both forms.

The definitions need nothing of this project: how a free text is marked is copied beside them. From an artifact's
folder, lm-eval runs them by itself:
`lm_eval run --include_path tasks --tasks NAME --model hf --model_args pretrained=FOLDER`.
"""

import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from mixcpt.config import ClosedWorldTask, MultipleChoiceTask, Task, is_question
from mixcpt.evaluate.asking import marking
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems

Form: TypeAlias = Literal["plain", "chat"]
Definition: TypeAlias = dict[str, Any]

MAX_ANSWER_TOKENS = 16
MAX_TEXT_TOKENS = 64
FOLDER = "tasks"
QUESTION_SEPARATOR = "\n"

_FIRST_LINE = r"\A\s*([^\n]*?)\s*\.?\s*(?:\n|\Z)"
_FIRST_WORD = r"\A\s*([^\s.,;:!?]*)"
_WHOLE = r"(?s)(.*)"
_MARKING = "marking.stated_value"


def prompt_form(task: Task, form: Form) -> Form:
    """Returns the form in which a model of this form is asked: what is no question stays plain."""
    return form if is_question(task) else "plain"


def gold_delimiter(task: Task, form: Form, chat_delimiter: str) -> str:
    """Returns the white space between the whole prompt and the right answer.

    Args:
        task: What is asked.
        form: How it is asked.
        chat_delimiter: What the chat template puts before an answer.
    """
    if form == "chat":
        return chat_delimiter
    return "" if _ends_in_line_break(task) else " "


def define(task: Task) -> Definition:
    """Returns the lm-eval definition of a task, with the path of its data relative to the artifact's folder."""
    if isinstance(task, ClosedWorldTask):
        asked = _free_answer(task)
    elif isinstance(task, MultipleChoiceTask):
        asked = _multiple_choice()
    else:
        asked = _whole_text()
    return {
        "task": task.name,
        "dataset_path": "parquet",  # typed: the json reader would take answers such as 2009-01-01 for points in time
        "dataset_kwargs": {"data_files": {"test": f"{FOLDER}/{task.name}.parquet"}},
        "test_split": "test",
        "num_fewshot": task.num_fewshot if isinstance(task, MultipleChoiceTask) else 0,
        **asked,
    }


def write_definition(asked: TaskItems, form: Form, answer_delimiter: str, folder: Path) -> Definition:
    """Returns the definition of a task with the absolute path of its data, both written into `folder`/tasks.

    Args:
        asked: The task and its items.
        form: How the model is asked.
        answer_delimiter: White space that the chat form puts before an assistant's text.
        folder: The artifact's folder.
    """
    import pandas as pd

    directory = folder / FOLDER
    directory.mkdir(exist_ok=True)
    definition = define(asked.task)
    asked_form = prompt_form(asked.task, form)
    rows = [_row(asked.task, item, asked_form, answer_delimiter) for item in asked.items]
    # a whole turn gets its white space from the template
    if examples := [_row(asked.task, item, asked_form, "") for item in asked.examples]:
        definition["fewshot_config"] = {"sampler": "first_n", "samples": examples}
    data = directory / f"{asked.task.name}.parquet"
    pd.DataFrame(rows).to_parquet(data, index=False)
    written = yaml.safe_dump(definition, sort_keys=False)
    running = {**definition, "dataset_kwargs": {"data_files": {"test": str(data)}}}
    if definition.get("process_results"):
        shutil.copyfile(marking.__file__, directory / "marking.py")
        written = written.replace(_MARKING, f"!function {_MARKING}")
        running["process_results"] = marking.stated_value
    (directory / f"{asked.task.name}.yaml").write_text(written)
    return running


def plain_prompt(task: Task, item: Item) -> str:
    """Returns the whole text of an item's plain form, up to the white space before the answer."""
    return str(_row(task, item, "plain", "")["prompt"])


def _free_answer(task: ClosedWorldTask) -> Definition:
    """A question is right if the first line of the answer is the value; a sentence, if its next word is; a free text,
    if it states the value."""
    stops = ["\n", "."] if task.form == "memory" else ["\n"]
    pattern = {"memory": _FIRST_WORD, "free_text": _WHOLE}.get(task.form, _FIRST_LINE)
    max_tokens = MAX_TEXT_TOKENS if task.form == "free_text" else MAX_ANSWER_TOKENS
    return {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "gold",
        "generation_kwargs": {"until": stops, "max_gen_toks": max_tokens, "do_sample": False},
        "filter_list": [
            {"name": "answer", "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
        ],
        "metric_list": [_metric("exact_match")],
    } | ({"process_results": _MARKING} if task.form == "free_text" else {})


def _ends_in_line_break(task: Task) -> bool:
    """Returns whether the plain form of a prompt ends in a line break: a question that is answered freely does."""
    return isinstance(task, ClosedWorldTask) and is_question(task)


def _multiple_choice() -> Definition:
    return {
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": " ",
        "metric_list": [_metric("acc"), _metric("acc_norm")],
    }


def _whole_text() -> Definition:
    return {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _row(task: Task, item: Item, form: Form, answer_delimiter: str) -> dict[str, Any]:
    if isinstance(task, ClosedWorldTask):
        separator = QUESTION_SEPARATOR if _ends_in_line_break(task) and form == "plain" else ""
        return {"prompt": item.prompt + separator, "gold": item.gold, "relation": item.fact.rpartition("/")[2]}
    if isinstance(task, MultipleChoiceTask):
        delimiter = answer_delimiter if form == "chat" else ""  # lm-eval itself puts the plain form's space
        choices = [delimiter + choice for choice in item.choices]
        return {"prompt": item.prompt, "choices": choices, "gold": item.choices.index(item.gold)}
    return {"text": item.prompt}
