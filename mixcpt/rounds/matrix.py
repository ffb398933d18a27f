"""The matrix of rounds and corpora: learning in each round, and forgetting in the rounds after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixcpt.evaluate.guessing import MIN_PASSAGES, is_at_chance
from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.records.round import Decision, Round
from mixcpt.store.artifacts import ArtifactRef

GENERAL = ""
"""Corpus name of the tasks that are about no corpus."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A corpus, measured by its first task; the general tasks are measured by their headline task."""

    corpus: str
    task: str
    metric: str
    higher_is_better: bool
    passages: int
    """Number of passages that the items of the task are about."""
    chance: float | None = None
    """Expected accuracy of a random choice; None for bits per byte."""

    @property
    def has_few_passages(self) -> bool:
        """Whether the items are about too few passages to show a gain or a loss."""
        return self.passages < MIN_PASSAGES

    def is_at_chance(self, value: float) -> bool:
        """Return whether a value does not differ from guessing."""
        return is_at_chance(self.metric, value, self.passages, self.chance)


@dataclass(frozen=True)
class Row:
    """The values of a model on all corpora that it was evaluated on."""

    number: int
    """Number of the round; 0 for the base."""
    decision: Decision | None
    """Decision about the model; None for the base."""
    learned: tuple[str, ...]
    values: Mapping[str, float]
    """Value of the column's task, by corpus."""


@dataclass(frozen=True)
class Forgotten:
    """The change on one corpus since the best model that was served."""

    corpus: str
    best: float
    last: float
    lost: float
    """Loss in the task's own direction, so that worse is positive; at most 0 if the last model is the best."""


@dataclass(frozen=True)
class Matrix:
    """All rounds, in order."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def forgotten(self) -> list[Forgotten]:
        """Return the change from the best to the last of the served models, per corpus.

        This is the forgetting measure of Chaudhry et al. (arXiv 1801.10112, section 3), corpus by corpus: the best
        value of any model of the chain minus the value of the last one.
        """
        chain = [row for row in self.rows if row.decision == "promoted"]
        return [change for column in self.columns if (change := _forgotten(column, chain))]


def matrix(rounds: Sequence[Round]) -> Matrix:
    """Return the matrix of some rounds; a model has values on a corpus from the round that brings the corpus."""
    columns = _columns(rounds)
    values: dict[int, dict[str, float]] = {0: {}}
    serving = 0
    for this_round in rounds:
        evaluations, number = this_round.evaluations, this_round.number
        values[0].update(_by_corpus(evaluations["base"], columns))
        if serving:
            # the champion of an earlier round is evaluated again, on the corpora of this round too
            values[serving] = _by_corpus(evaluations["champion"], columns) | values[serving]
        values[number] = _by_corpus(evaluations["candidate"], columns)
        serving = number if this_round.decision == "promoted" else serving
    base = Row(0, None, learned=(), values=values[0])
    rows = [Row(past.number, past.decision, learned=past.new, values=values[past.number]) for past in rounds]
    return Matrix(columns, (base, *rows))


def general_task(this_round: Round) -> str:
    """Return the task that represents prior knowledge in a round; empty if no task is general.

    The tasks about earlier corpora are general tasks of the run too, but have columns of their own.
    """
    names = this_round.tasks.get(GENERAL, ())
    named = this_round.run.config.evaluate.headline_general
    return named if named in names else next(iter(names), "")


def _columns(rounds: Sequence[Round]) -> tuple[Column, ...]:
    columns: dict[str, Column] = {}
    for this_round in rounds:
        scores = EvaluationSummary.of(this_round.evaluations["candidate"]).by_task
        tasks = {corpus: names[0] for corpus, names in this_round.tasks.items() if names}
        if GENERAL in tasks:
            tasks[GENERAL] = general_task(this_round)
        for corpus, task in tasks.items():
            columns.setdefault(corpus, _column(corpus, scores[task]))
    general = columns.pop(GENERAL, None)
    return (*columns.values(), *([general] if general else []))


def _column(corpus: str, score: TaskScore) -> Column:
    return Column(
        corpus=corpus,
        task=score.task,
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        passages=score.num_passages,
        chance=score.chance,
    )


def _by_corpus(evaluation: ArtifactRef, columns: Sequence[Column]) -> dict[str, float]:
    scores = EvaluationSummary.of(evaluation).by_task
    return {column.corpus: scores[column.task].value for column in columns if column.task in scores}


def _forgotten(column: Column, chain: Sequence[Row]) -> Forgotten | None:
    values = [row.values[column.corpus] for row in chain if column.corpus in row.values]
    if not values:
        return None
    best = max(values) if column.higher_is_better else min(values)
    lost = best - values[-1] if column.higher_is_better else values[-1] - best
    return Forgotten(column.corpus, best, values[-1], lost=lost)
