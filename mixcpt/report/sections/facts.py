"""Fact ledger of a run as the page shows it: number of facts per state, and a selection of the facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixcpt.evaluate.statistics.ledger import STATES, State, counts, ledger
from mixcpt.records.run import RunResult

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_ROWS = 240
_BY_INTEREST: tuple[State, ...] = ("forgotten", "contradicted", "half-learned", "unchanged", "learned", "known")
"""States from the most to the least interesting for a reader."""


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
