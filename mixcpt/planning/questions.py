"""How much is asked of every model: items of each task, and what reading and answering them takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.config import BitsPerByteTask, EvaluateConfig, SplitConfig, Task, is_question
from mixcpt.evaluate.asking.tasks import asked_items
from mixcpt.planning.samples import Sample
from mixcpt.store.models import ModelRef, load_tokenizer

_TOKENISED_ITEMS = 40
"""Of each task; the others are taken to be as long."""
_ANSWER_TOKENS = 24
"""That a free answer is taken to have, where the model writes it."""


@dataclass(frozen=True)
class TaskLoad:
    """One task."""

    name: str
    items: int
    """That are asked."""
    tokens: int
    """That a model reads for all of them."""
    written_tokens: int
    """That it writes for each; 0 where answers are only compared."""
    is_domain_question: bool
    """Whether it is asked with the document at hand too."""


def task_loads(config: EvaluateConfig, samples: Sequence[Sample], base: ModelRef) -> list[TaskLoad]:
    """Returns the load of each task; of held-out documents the sample says how many there will be, and how long."""
    tokenizer: Any = load_tokenizer(base)
    return [_load(task, config, samples, tokenizer) for task in config.tasks]


def _load(task: Task, config: EvaluateConfig, samples: Sequence[Sample], tokenizer: Any) -> TaskLoad:
    if isinstance(task, BitsPerByteTask) and task.heldout_pool != "none":
        pool = [s for s in samples if s.pool == task.heldout_pool and task.source in ("", s.name)]
        count = round(sum(sample.num_heldout for sample in pool) * _share(config.split, config.splits))
        texts = [record.text for sample in pool for record in sample.records[:_TOKENISED_ITEMS]]
        answers = 1
    else:
        items = asked_items(task, config)
        count, answers = len(items), max(1, len(items[0].choices) if items else 1)
        texts = [item.prompt + item.gold for item in items[:_TOKENISED_ITEMS]]
    count = min(count, task.limit or count)
    mean = sum(len(tokenizer(text)["input_ids"]) for text in texts) / max(len(texts), 1)
    writes = _ANSWER_TOKENS if task.kind == "closed_world" else 0
    asked = task.group == "domain" and is_question(task)
    return TaskLoad(task.name, count, round(count * answers * mean), writes, asked)


def _share(split: str, splits: SplitConfig) -> float:
    shares = {"probe": splits.probe_fraction, "selection": splits.selection_fraction}
    shares["report"] = 1 - sum(shares.values())
    return shares.get(split, 1.0)
