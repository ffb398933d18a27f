"""Answers before and after: a few questions that show what changed, both ways."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TypeAlias

import pandas as pd

from mixcpt.report.view import read_items
from mixcpt.runs import RunResult

Key: TypeAlias = tuple[str, str]
"""Task and item."""


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
        roles = [role for role in ("pretrained", "final") if role in run.evaluations]
        roles = ["final"] if run.final == "pretrained" else roles
        models += [(run.name, role, _graded(run, role)) for role in roles]
    finals = [items for _, role, items in models if role == "final"]
    return [_example(key, base, models) for key in choose(base, finals, num_examples, seed)]


def choose(base: pd.DataFrame, finals: Sequence[pd.DataFrame], num_examples: int, seed: int) -> list[Key]:
    """Returns the chosen items: for each final model its gains and its losses in turn, then what did not change."""
    rng = random.Random(seed)
    before = dict(zip(base.index, base["value"], strict=True))
    flips: list[list[Key]] = []
    for items in finals:
        after = dict(zip(items.index, items["value"], strict=True))
        flips.append(_shuffled([key for key in before if before[key] < after.get(key, 0)], rng))
        flips.append(_shuffled([key for key in before if before[key] > after.get(key, 1)], rng))
    unchanged = _shuffled(list(before), rng)
    in_turn = chain(_in_turn(flips), unchanged)
    return list(dict.fromkeys(in_turn))[:num_examples]


def _graded(run: RunResult, role: str) -> pd.DataFrame:
    """Returns the items of an evaluation that are right or wrong."""
    items = read_items(run.evaluations[role])
    return items[items["metric"] == "accuracy"]


def _shuffled(keys: list[Key], rng: random.Random) -> list[Key]:
    return rng.sample(keys, len(keys))


def _in_turn(groups: Sequence[Sequence[Key]]) -> Iterator[Key]:
    """Yields the first of each group, then the second of each, and so on."""
    for keys in zip_longest(*groups):
        yield from (key for key in keys if key is not None)


def _example(key: Key, base: pd.DataFrame, models: Sequence[tuple[str, str, pd.DataFrame]]) -> Example:
    item = base.loc[key]
    answers = [
        Answer(run, role, str(items.loc[key, "answer"]), bool(items.loc[key, "value"] == 1))
        for run, role, items in models
        if key in items.index
    ]
    return Example(key[0], str(item["group"]), str(item["prompt"]).strip(), str(item["gold"]), answers)
