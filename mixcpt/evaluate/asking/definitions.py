"""Local lm-eval task definitions: how items become prompts, and how answers are scored.

In plain form, a closed-world question ends with a line break, as in the knowledge mixture, and choices follow `Answer:`
and a space. In chat form, the same text is the user's turn and the answer is the assistant's. The beginning of a
document (`memory`) and a text or answer scored in bits per byte are never a chat turn: both forms use plain text.

The definitions do not depend on this project: the scoring function of free texts is copied into the same folder. From
an artifact's folder, lm-eval runs them on its own:
`lm_eval run --include_path tasks --tasks NAME --model hf --model_args pretrained=FOLDER`.
"""

import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from mixcpt.config import BenchmarkTask, ClosedWorldTask, MultipleChoiceTask, Task, is_question
from mixcpt.evaluate.asking import marking
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.evaluate.asking.texts import QUESTION_SEPARATOR, scores_answers

Form: TypeAlias = Literal["plain", "chat"]
Definition: TypeAlias = dict[str, Any]

MAX_ANSWER_TOKENS = 16
MAX_TEXT_TOKENS = 64
FOLDER = "tasks"

_FIRST_LINE = r"\A\s*([^\n]*?)\s*\.?\s*(?:\n|\Z)"
_FIRST_WORD = r"\A\s*([^\s.,;:!?]*)"
_WHOLE = r"(?s)(.*)"
_MARKING = "marking.stated_value"


def prompt_form(task: Task, form: Form) -> Form:
    """Return the prompt form of a task for a model evaluated in `form`: only questions can have the chat form."""
    return form if is_question(task) else "plain"


def gold_delimiter(task: Task, form: Form, chat_delimiter: str) -> str:
    """Return the white space between prompt and correct answer; the chat template inserts `chat_delimiter`."""
    if form == "chat":
        return chat_delimiter
    if isinstance(task, BenchmarkTask):
        return ""  # its answers contain it
    return "" if _ends_in_line_break(task) else " "


def define(task: Task, *, has_choices: bool = True) -> Definition:
    """Return the lm-eval definition of a task, with the path of its data relative to the artifact's folder.

    `has_choices` is whether the items of a benchmark have choices.
    """
    if isinstance(task, ClosedWorldTask):
        scoring = _free_answer(task)
    elif isinstance(task, BenchmarkTask):
        scoring = _benchmark(has_choices)
    elif isinstance(task, MultipleChoiceTask):
        scoring = _multiple_choice()
    else:
        scoring = _answer_text() if scores_answers(task) else _whole_text()
    return {
        "task": task.name,
        "dataset_path": "parquet",  # parquet has types: the json reader parses answers such as 2009-01-01 as dates
        "dataset_kwargs": {"data_files": {"test": f"{FOLDER}/{task.name}.parquet"}},
        "test_split": "test",
        "num_fewshot": task.num_fewshot if isinstance(task, MultipleChoiceTask | BenchmarkTask) else 0,
        **scoring,
    }


def write_definition(task: TaskItems, form: Form, answer_delimiter: str, folder: Path) -> Definition:
    """Write the definition and the data of a task into `folder`/tasks, and return it with the data's absolute path.

    `form` is that of the evaluation; `answer_delimiter` is the white space that the chat form inserts before an answer.
    """
    import pandas as pd

    directory = folder / FOLDER
    directory.mkdir(exist_ok=True)
    definition = define(task.config, has_choices=task.has_choices)
    task_form = prompt_form(task.config, form)
    rows = [_row(task.config, item, task_form, answer_delimiter) for item in task.items]
    # no delimiter in examples: the template adds the white space of a complete turn
    if examples := [_row(task.config, item, task_form, "") for item in task.examples]:
        definition["fewshot_config"] = {"sampler": "first_n", "samples": examples}
    data = directory / f"{task.name}.parquet"
    pd.DataFrame(rows).to_parquet(data, index=False)
    written = yaml.safe_dump(definition, sort_keys=False)
    running = {**definition, "dataset_kwargs": {"data_files": {"test": str(data)}}}
    if definition.get("process_results"):
        shutil.copyfile(marking.__file__, directory / "marking.py")
        written = written.replace(_MARKING, f"!function {_MARKING}")
        running["process_results"] = marking.stated_value
    (directory / f"{task.name}.yaml").write_text(written)
    return running


def plain_prompt(task: Task, item: Item) -> str:
    """Return the whole prompt of an item in plain form, up to the white space before the answer."""
    return str(_row(task, item, "plain", "")["prompt"])


def _free_answer(task: ClosedWorldTask) -> Definition:
    """Return the scoring of a generated answer.

    A question needs the value in the first line, a sentence (`memory`) as the next word; a free text must state it.
    """
    stops = ["\n", "."] if task.form == "memory" else ["\n"]
    pattern = {"memory": _FIRST_WORD, "free_text": _WHOLE}.get(task.form, _FIRST_LINE)
    max_tokens = MAX_TEXT_TOKENS if task.form == "free_text" else MAX_ANSWER_TOKENS
    filters = [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]
    definition: Definition = {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "gold",
        "generation_kwargs": {"until": stops, "max_gen_toks": max_tokens, "do_sample": False},
        "filter_list": [{"name": "answer", "filter": filters}],
        "metric_list": [_metric("exact_match")],
    }
    if task.form == "free_text":
        definition["process_results"] = _MARKING
    return definition


def _ends_in_line_break(task: Task) -> bool:
    """Return whether a plain prompt of the task ends in a line break, as a question with a free answer does."""
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


def _benchmark(has_choices: bool) -> Definition:
    """Return the scoring of a benchmark: the likeliest choice, or the answer as the likeliest continuation."""
    scoring: Definition = {"doc_to_text": "prompt", "doc_to_target": "gold", "target_delimiter": ""}
    if has_choices:
        scoring = {"output_type": "multiple_choice", "doc_to_choice": "choices", **scoring}
    else:
        scoring = {"output_type": "loglikelihood", **scoring}
    return {**scoring, "metric_list": [_metric("acc")]}


def _whole_text() -> Definition:
    return {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }


def _answer_text() -> Definition:
    """Return the scoring of a given answer by its probability after the prompt, as text of the knowledge mixture."""
    return {
        "output_type": "loglikelihood",
        "doc_to_text": "prompt",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [_metric("acc")],  # the perplexity of a long answer overflows; its bits come from the samples
    }


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _row(task: Task, item: Item, form: Form, answer_delimiter: str) -> dict[str, Any]:
    if isinstance(task, ClosedWorldTask):
        separator = QUESTION_SEPARATOR if _ends_in_line_break(task) and form == "plain" else ""
        return {"prompt": item.prompt + separator, "gold": item.gold, "relation": item.fact.rpartition("/")[2]}
    if isinstance(task, BenchmarkTask):
        gold = {"choices": list(item.choices), "gold": item.choices.index(item.gold)} if item.choices else {}
        return {"prompt": item.prompt, "gold": item.gold} | gold
    if isinstance(task, MultipleChoiceTask):
        delimiter = answer_delimiter if form == "chat" else ""  # lm-eval adds the space of the plain form
        choices = [delimiter + choice for choice in item.choices]
        return {"prompt": item.prompt, "choices": choices, "gold": item.choices.index(item.gold)}
    if scores_answers(task):
        return {"prompt": item.prompt + QUESTION_SEPARATOR, "gold": item.gold}
    return {"text": item.prompt}
