"""Answers before and after: a few questions that show what changed, both ways."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

from mixcpt.records.run import RunResult
from mixcpt.report.view import read_rows

Key: TypeAlias = tuple[str, str]
"""Task and item."""
Items: TypeAlias = Mapping[Key, Mapping[str, Any]]
"""Rows of `items.parquet`."""


@dataclass(frozen=True)
class Answer:
    """What one model said."""

    run: str
    """Name of the run; empty for the base."""
    role: str
    """`base`, `pretrained` or `final`."""
    text: str
    is_right: bool


@dataclass(frozen=True)
class Example:
    """One question, its right answer, and what each model said."""

    task: str
    group: str
    question: str
    gold: str
    answers: Sequence[Answer]


def examples(runs: Sequence[RunResult], num_examples: int, seed: int) -> list[Example]:
    """Returns questions with the answers of every model: gained and lost ones in turn first, then unchanged ones."""
    base = _graded(runs[0], "base")
    models = [("", "base", base)]
    for run in runs:
        roles = ["pretrained", "final"] if "pretrained" in run.evaluations and run.final != "pretrained" else ["final"]
        models += [(run.name, role, _graded(run, role)) for role in roles]
    finals = [items for _, role, items in models if role == "final"]
    return [_example(key, models) for key in choose(base, finals, num_examples, seed)]


def choose(base: Items, finals: Sequence[Items], num_examples: int, seed: int) -> list[Key]:
    """Returns the chosen items: for each final model its gains and its losses in turn, then what did not change."""
    rng = random.Random(seed)
    flips = []
    for items in finals:
        asked = [key for key in base if key in items]
        flips.append(_shuffled([key for key in asked if base[key]["value"] < items[key]["value"]], rng))
        flips.append(_shuffled([key for key in asked if base[key]["value"] > items[key]["value"]], rng))
    in_turn = [key for keys in zip_longest(*flips) for key in keys if key is not None]
    return list(dict.fromkeys([*in_turn, *_shuffled(list(base), rng)]))[:num_examples]


def _graded(run: RunResult, role: str) -> Items:
    """Returns the items of an evaluation that are right or wrong."""
    rows = read_rows(run.evaluations[role].file("items.parquet"))
    return {(row["task"], row["item_id"]): row for row in rows if row["metric"] == "accuracy"}


def _shuffled(keys: list[Key], rng: random.Random) -> list[Key]:
    return rng.sample(keys, len(keys))


def _example(key: Key, models: Sequence[tuple[str, str, Items]]) -> Example:
    item = models[0][2][key]
    answers = [
        Answer(run, role, str(items[key]["answer"]), items[key]["value"] == 1)
        for run, role, items in models
        if key in items
    ]
    return Example(key[0], item["group"], item["prompt"].strip(), item["gold"], answers)
