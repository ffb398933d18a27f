"""Texts, and answers after their prompts, that are scored in bits per byte."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mixcpt.config import BitsPerByteTask, Task
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import Item
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.mixture.lost_text import lost_text

QUESTION_SEPARATOR = "\n"
MAX_LOST_SHARE = 0.2
"""Maximum share of characters that a tokenizer may lose of the texts of a task."""
MAX_COMPARED_CHARACTERS = 20_000


def scores_answers(task: Task) -> bool:
    """Return whether a task scores answers after their prompts in bits per byte, and not whole texts."""
    return isinstance(task, BitsPerByteTask) and task.heldout_pool == "instructions"


def whole_text(task: Task, item: Item) -> str:
    """Return the whole text of an item that is scored in bits per byte."""
    return f"{item.prompt}{QUESTION_SEPARATOR}{item.gold}" if scores_answers(task) else item.prompt


def scored_bytes(answer: str) -> int:
    """Return the number of scored bytes; lm-eval scores the white space at the end of a prompt with the answer."""
    return len((QUESTION_SEPARATOR + answer).encode())


def require_readable(tokenizer: Any, task: TaskItems) -> None:
    """Raise `DataError` for texts that the tokenizer loses: bits per byte would rate text that was not read."""
    if task.metric != "bits_per_byte":
        return
    lost = lost_text(tokenizer, (whole_text(task.config, item)[:MAX_COMPARED_CHARACTERS] for item in task.items))
    if lost.share > MAX_LOST_SHARE:
        raise DataError(
            f"evaluation task {task.name}: the tokenizer cannot represent {lost.share:.1%} of the characters of its "
            f"texts, for example {lost.examples}, so bits per byte would rate text that the model does not read",
            "remove the task, or use a base model whose tokenizer covers the language",
        )


def with_short_answers(task: TaskItems, num_tokens: Callable[[str], int], limit: int) -> TaskItems:
    """Return the task with every scored answer cut to `limit` tokens, so that its prompt has room in the context."""
    if not scores_answers(task.config):
        return task
    return replace(task, items=tuple(replace(item, gold=_cut(item.gold, num_tokens, limit)) for item in task.items))


def _cut(text: str, num_tokens: Callable[[str], int], limit: int) -> str:
    """Return the beginning of a text that has at most `limit` tokens."""
    while len(text) > 1 and (length := num_tokens(text)) > limit:
        text = text[: max(1, min(len(text) - 1, len(text) * limit // length))]
    return text
