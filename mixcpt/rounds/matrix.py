"""Rounds against corpora: what each round learned, and what became of it in the rounds after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixcpt.evaluate.summary import EvaluationSummary
from mixcpt.records.round import Decision, Round
from mixcpt.store.artifacts import ArtifactRef

GENERAL = ""
"""Stands in place of a corpus for what is about none."""


@dataclass(frozen=True)
class Column:
    """A corpus, by the first of its tasks; or what is about none of them, by the headline task."""

    corpus: str
    task: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Row:
    """A model on every corpus that it was asked about."""

    number: int
    """Of the round; 0 for the base."""
    decision: Decision | None
    """What became of the model; None for the base."""
    learned: tuple[str, ...]
    values: Mapping[str, float]
    """By corpus."""


@dataclass(frozen=True)
class Forgotten:
    """What became of one corpus since a serving model was at its best on it."""

    corpus: str
    best: float
    last: float
    lost: float
    """In the direction in which the task gets worse; below 0 where the last model is the best."""


@dataclass(frozen=True)
class Matrix:
    """All rounds, in order."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def forgotten(self) -> list[Forgotten]:
        """Returns for each corpus the best of the models that served against the last of them.

        That is the measure of Chaudhry et al. (arXiv 1801.10112, section 3), corpus by corpus: what was lost between
        the best that any model of the chain could do and what its end can do.
        """
        chain = [row for row in self.rows if row.decision == "promoted"]
        return [found for column in self.columns if (found := _forgotten(column, chain))]


def matrix(rounds: Sequence[Round]) -> Matrix:
    """Returns the table of some rounds; a model is asked about a corpus from the round in which that arrives."""
    columns = _columns(rounds)
    asked: dict[int, dict[str, float]] = {}
    serving = 0
    for each in rounds:
        asked.setdefault(0, {}).update(_by_corpus(each.evaluations["base"], columns))
        if serving:
            asked[serving].update(_by_corpus(each.evaluations["champion"], columns) | asked[serving])
        asked[each.number] = _by_corpus(each.evaluations["candidate"], columns)
        serving = each.number if each.decision == "promoted" else serving
    made = [Row(each.number, each.decision, each.new, asked[each.number]) for each in rounds]
    return Matrix(columns, (Row(0, None, (), asked.get(0, {})), *made))


def _columns(rounds: Sequence[Round]) -> tuple[Column, ...]:
    found: dict[str, Column] = {}
    for each in rounds:
        tasks = EvaluationSummary.of(each.evaluations["candidate"]).by_task
        first = {corpus: names[0] for corpus, names in each.tasks.items() if corpus != GENERAL and names}
        headline = {GENERAL: each.run.config.evaluate.headline_general}
        for corpus, name in (headline | first).items():
            metric, better = tasks[name]["metric"], tasks[name]["higher_is_better"]
            found.setdefault(corpus, Column(corpus, name, str(metric), bool(better)))
    general = found.pop(GENERAL, None)
    return (*found.values(), *([general] if general else []))


def _by_corpus(evaluation: ArtifactRef, columns: Sequence[Column]) -> dict[str, float]:
    tasks = EvaluationSummary.of(evaluation).by_task
    return {column.corpus: tasks[column.task].value for column in columns if column.task in tasks}  # type: ignore[arg-type]


def _forgotten(column: Column, chain: Sequence[Row]) -> Forgotten | None:
    values = [row.values[column.corpus] for row in chain if column.corpus in row.values]
    if not values:
        return None
    best = max(values) if column.higher_is_better else min(values)
    lost = best - values[-1] if column.higher_is_better else values[-1] - best
    return Forgotten(column.corpus, best, values[-1], lost)
