"""Example answers before and after training: questions that show changes in both directions."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeAlias

from mixcpt.records.run import RunResult
from mixcpt.report.view import read_rows

Key: TypeAlias = tuple[str, str]
"""Task name and item id."""
Items: TypeAlias = Mapping[Key, Mapping[str, Any]]
"""Rows of `items.parquet` by key."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer of one model to one question."""

    run: str
    """Name of the run; empty for the base."""
    role: str
    """`base`, `pretrained` or `final`."""
    text: str
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question, its correct answer, and the answers of all models."""

    task: str
    group: str
    question: str
    gold: str
    answers: Sequence[Answer]


def examples(runs: Sequence[RunResult], num_examples: int, seed: int) -> list[Example]:
    """Return questions with the answers of every model: changed answers first, then unchanged ones."""
    base = _graded_items(runs[0], "base")
    models = [("", "base", base)]
    for run in runs:
        roles = ["pretrained", "final"] if "pretrained" in run.evaluations and run.final != "pretrained" else ["final"]
        models += [(run.name, role, _graded_items(run, role)) for role in roles]
    finals = [items for _, role, items in models if role == "final"]
    return [_example(key, models) for key in choose(base, finals, num_examples, seed)]


def choose(base: Items, finals: Sequence[Items], num_examples: int, seed: int) -> list[Key]:
    """Return the chosen items: gains and losses of the final models in turn, then random items."""
    rng = random.Random(seed)
    flips = []
    for items in finals:
        common = [key for key in base if key in items]
        flips.append(_shuffled([key for key in common if base[key]["value"] < items[key]["value"]], rng))
        flips.append(_shuffled([key for key in common if base[key]["value"] > items[key]["value"]], rng))
    in_turn = [key for key in chain.from_iterable(zip_longest(*flips)) if key is not None]
    return list(dict.fromkeys([*in_turn, *_shuffled(list(base), rng)]))[:num_examples]


def _graded_items(run: RunResult, role: str) -> Items:
    """Return the items of an evaluation that are graded as right or wrong."""
    rows = read_rows(run.evaluations[role].file("items.parquet"))
    return {(row["task"], row["item_id"]): row for row in rows if row["metric"] == "accuracy"}


def _shuffled(keys: list[Key], rng: random.Random) -> list[Key]:
    return rng.sample(keys, len(keys))


def _example(key: Key, models: Sequence[tuple[str, str, Items]]) -> Example:
    _, _, base_items = models[0]
    item = base_items[key]
    answers = [
        Answer(run=run, role=role, text=str(items[key]["answer"]), is_right=items[key]["value"] == 1)
        for run, role, items in models
        if key in items
    ]
    return Example(
        task=key[0], group=item["group"], question=item["prompt"].strip(), gold=item["gold"], answers=answers
    )
