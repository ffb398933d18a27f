"""Answers before and after training: example questions, and the fact ledger of a run."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from mixcpt.evaluate.shown import shown_items
from mixcpt.evaluate.statistics.ledger import STATES, State, counts, ledger
from mixcpt.records.run import RunResult

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_ROWS = 240
"""Maximum number of facts on the page, per table."""

_BY_INTEREST: tuple[State, ...] = ("forgotten", "contradicted", "half-learned", "unchanged", "learned", "known")
"""States from the most to the least interesting for a reader."""

Key: TypeAlias = tuple[str, str]
"""Task name and item id."""
Items: TypeAlias = Mapping[Key, Mapping[str, Any]]
"""Rows of `shown_items` by key."""


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
    rows = shown_items(run.evaluations[role]).to_dict("records")
    return {(row["task"], row["item_id"]): row for row in rows}  # type: ignore[misc]


def _shuffled(keys: list[Key], rng: random.Random) -> list[Key]:
    return rng.sample(keys, len(keys))


def _example(key: Key, models: Sequence[tuple[str, str, Items]]) -> Example:
    _, _, base_items = models[0]
    item = base_items[key]
    answers = [
        Answer(run=run, role=role, text=str(items[key]["shown_answer"]), is_right=items[key]["value"] == 1)
        for run, role, items in models
        if key in items
    ]
    return Example(task=key[0], group=item["group"], question=item["question"], gold=item["gold"], answers=answers)


@dataclass(frozen=True)
class FactStates:
    """States of one fact that several tasks ask for."""

    fact: str
    states: Mapping[str, State]
    """State by task."""
    documents: Sequence[str]
    """Ids of the documents about the passage that training read."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Ledger of one run's final model."""

    run: str
    counts: Mapping[str, Mapping[str, int]]
    """Number of facts by task and state."""
    rows: Sequence[Mapping[str, Any]]
    """Most interesting rows of the ledger."""
    num_rows: int
    """Number of rows of the whole ledger."""
    multiple: Sequence[FactStates] = ()
    """Most interesting facts that several tasks ask for."""
    num_multiple: int = 0
    """Number of all facts that several tasks ask for."""


def facts(run: RunResult) -> Facts:
    """Return the ledger of a run, base against final model."""
    table = ledger(run.evaluations["base"], run.evaluations["final"], run.refs["corpus"])
    table_counts = counts(table)
    multiple = _multiple(table)
    return Facts(
        run=run.name,
        counts={
            str(task): {state: int(table_counts.loc[task, state]) for state in STATES} for task in table_counts.index
        },
        rows=[{str(name): value for name, value in row.items()} for row in _interesting(table).to_dict("records")],
        num_rows=len(table),
        multiple=multiple[:MAX_ROWS],
        num_multiple=len(multiple),
    )


def _interesting(table: "DataFrame") -> "DataFrame":
    """Return the most interesting rows, taken from each state in turn, so that no state fills the page."""
    rank = {state: number for number, state in enumerate(_BY_INTEREST)}
    turn = table.groupby("state").cumcount()
    ranked = table.assign(turn=turn, place=table["state"].map(rank)).sort_values(["turn", "place"])
    return ranked.head(MAX_ROWS).sort_values(["place", "task", "fact"])


def _multiple(table: "DataFrame") -> list[FactStates]:
    """Return the facts of several tasks, those with the most contradictory results first."""
    ranked = []
    for name, rows in table.groupby("fact", sort=False):
        if len(rows) > 1:
            states = dict(zip(rows["task"], rows["state"], strict=True))
            fact = FactStates(fact=str(name), states=states, documents=list(rows["documents"].iloc[0]))
            ranked.append((abs(rows["right_after"].mean() - 0.5), fact))
    ranked.sort(key=lambda pair: (pair[0], pair[1].fact))
    return [fact for _, fact in ranked]
