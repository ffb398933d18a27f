"""The fact ledger of each run as the page shows it: how many facts are in each state, and the facts themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixcpt.evaluate.statistics.ledger import STATES, State, counts, ledger
from mixcpt.records.run import RunResult

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_ROWS = 240
_TELLING: tuple[State, ...] = ("forgotten", "contradicted", "half-learned", "unchanged", "learned", "known")
"""What a reader looks for first."""


@dataclass(frozen=True)
class Facts:
    """The ledger of one run's final model."""

    run: str
    counts: Mapping[str, Mapping[str, int]]
    """By task and state."""
    rows: Sequence[Mapping[str, Any]]
    """The most telling ones."""
    num_rows: int
    """How many there are in all."""
    ways: Sequence["Ways"] = ()
    """Facts that were asked in several ways."""
    num_ways: int = 0
    """How many of them there are in all."""


@dataclass(frozen=True)
class Ways:
    """One fact in all the ways in which it was asked."""

    fact: str
    states: Mapping[str, State]
    """By task."""
    documents: Sequence[str]
    """What training read about its passage."""


def facts(run: RunResult) -> Facts:
    """Returns the ledger of a run, base against final model."""
    table = ledger(run.evaluations["base"], run.evaluations["final"], run.refs["corpus"])
    counted = counts(table)
    ways = _ways(table)
    place = {state: number for number, state in enumerate(_TELLING)}
    # each state in turn, so that a thousand forgotten facts leave room for the others
    turn = table.groupby("state").cumcount()
    order = table.assign(turn=turn, place=table["state"].map(place)).sort_values(["turn", "place"])
    shown = order.head(MAX_ROWS).sort_values(["place", "task", "fact"])
    return Facts(
        run.name,
        {str(task): {state: int(counted.loc[task, state]) for state in STATES} for task in counted.index},
        [{str(name): value for name, value in row.items()} for row in shown.to_dict("records")],
        len(table),
        ways[:MAX_ROWS],
        len(ways),
    )


def _ways(table: "DataFrame") -> list[Ways]:
    """Returns the facts that were asked in several ways, those first that are known in some ways and not in others."""
    found = []
    for name, rows in table.groupby("fact", sort=False):
        if len(rows) > 1:
            states = dict(zip(rows["task"], rows["state"], strict=True))
            found.append((rows["right_after"].mean(), Ways(str(name), states, list(rows["documents"].iloc[0]))))
    found.sort(key=lambda pair: (abs(pair[0] - 0.5), pair[1].fact))
    return [ways for _, ways in found]
