"""Counts the questions of every task, and the tokens to read and answer them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mixcpt.config import BitsPerByteTask, EvaluateConfig, SplitConfig, Task, is_question
from mixcpt.evaluate.asking.tasks import items_in_split
from mixcpt.planning.samples import Sample
from mixcpt.store.models import ModelRef, load_tokenizer

_TOKENISED_ITEMS = 40
"""Number of items per task that are tokenized; the others are assumed to have the same mean length."""
_ANSWER_TOKENS = 24
"""Assumed tokens of an answer that the model writes."""


@dataclass(frozen=True, kw_only=True)
class TaskLoad:
    """Number of questions and tokens of one task."""

    name: str
    items: int
    tokens: int
    """Tokens that a model reads for all questions."""
    written_tokens: int
    """Tokens that a model writes per question; 0 if it only compares answers."""
    is_domain_question: bool
    """Whether the open-book evaluation includes the task."""


def task_loads(config: EvaluateConfig, samples: Sequence[Sample], base: ModelRef) -> list[TaskLoad]:
    """Return the loads of all tasks; numbers and lengths of held-out documents are estimated from the samples."""
    tokenizer: Any = load_tokenizer(base)
    return [_task_load(task, config, samples, tokenizer) for task in config.tasks]


def _task_load(task: Task, config: EvaluateConfig, samples: Sequence[Sample], tokenizer: Any) -> TaskLoad:
    if isinstance(task, BitsPerByteTask) and task.heldout_pool != "none":
        pool = [sample for sample in samples if sample.pool == task.heldout_pool and task.source in ("", sample.name)]
        num_items = round(sum(sample.num_heldout for sample in pool) * _split_fraction(config.split, config.splits))
        records = chain.from_iterable(sample.records[:_TOKENISED_ITEMS] for sample in pool)
        texts = [record.text for record in records]
        num_choices = 1
    else:
        items = items_in_split(task, config)
        num_items, num_choices = len(items), max(1, len(items[0].choices) if items else 1)
        texts = [item.prompt + item.gold for item in items[:_TOKENISED_ITEMS]]
    num_items = min(num_items, task.limit or num_items)
    mean_tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts) / max(len(texts), 1)
    return TaskLoad(
        name=task.name,
        items=num_items,
        tokens=round(num_items * num_choices * mean_tokens),
        written_tokens=_ANSWER_TOKENS if task.kind == "closed_world" else 0,
        is_domain_question=task.group == "domain" and is_question(task),
    )


def _split_fraction(split: str, splits: SplitConfig) -> float:
    fractions = {"probe": splits.probe_fraction, "selection": splits.selection_fraction}
    fractions["report"] = 1 - sum(fractions.values())
    return fractions.get(split, 1.0)
