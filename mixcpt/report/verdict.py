"""Results in one sentence, with their uncertainty."""

from enum import Enum
from itertools import groupby

from mixcpt.evaluate import PriorKnowledge, TaskDelta
from mixcpt.report import words
from mixcpt.report.summary import PairComparison, Promise, RunSummary, Summary, TaskValue


class Direction(Enum):
    """Direction of a change according to its interval."""

    BETTER = "better"
    WORSE = "worse"
    UNSURE = "no significant change"


_LEARNED = {
    Direction.BETTER: "gained in the domain",
    Direction.WORSE: "lost in the domain",
    Direction.UNSURE: "shows no significant gain in the domain",
}
_KEPT = {
    Direction.BETTER: "gained in general",
    Direction.WORSE: "lost in general",
    Direction.UNSURE: "shows no significant loss in general",
}
_AGAINST = {
    Direction.BETTER: "is better than",
    Direction.WORSE: "is worse than",
    Direction.UNSURE: "does not differ significantly from",
}
MARKS = {Direction.BETTER: "▲", Direction.WORSE: "▼", Direction.UNSURE: "≈"}
"""Symbols of the directions, readable without colour."""


def direction(change: TaskDelta) -> Direction:
    """Return better or worse if the interval excludes zero, otherwise unsure."""
    low, high = (change.low, change.high) if change.higher_is_better else (-change.high, -change.low)
    return Direction.BETTER if low > 0 else Direction.WORSE if high < 0 else Direction.UNSURE


def run_verdict(summary: Summary, run: RunSummary) -> str:
    """Return the gain in the domain and the loss in general of a run's final model as one sentence."""
    learned, kept = (run.final.tasks[task] for task in (summary.headline_domain, summary.headline_general))
    gain, loss = (value.change and direction(value.change) for value in (learned, kept))
    conjunction = "and" if (gain is Direction.BETTER) == (loss is not Direction.WORSE) else "but"
    gained = f"{_LEARNED[gain or Direction.UNSURE]} ({_before_and_after(learned, summary.confidence)})"
    lost = f"{_KEPT[loss or Direction.UNSURE]} ({_before_and_after(kept, summary.confidence)})"
    return f"{words.printable(run.name)} {gained} {conjunction} {lost}."


def prior_knowledge_verdict(known: PriorKnowledge, confidence: float) -> str:
    """Return one sentence that compares the trained model with the base that is given the document."""
    closed, opened, trained = (words.percent(share) for share in (known.closed_book, known.open_book, known.trained))
    base = (
        f"Of {words.count(known.n)} {words.title(known.task)}, the base answers {closed} without and {opened} with "
        "the document in its prompt"
    )
    difference = words.interval("accuracy", known.low, known.high)
    interval = f"{words.level(confidence)} interval of the difference {difference} points"
    if known.low > 0:
        return f"{base}; after training it answers {trained} without a document, significantly more ({interval})."
    if known.high < 0:
        conclusion = "prompting or retrieval is already better"
    else:
        conclusion = "prompting or retrieval may be as good"
    return f"{base}; after training it answers {trained} without a document ({interval}): {conclusion}."


def promise_verdict(promise: Promise, confidence: float) -> str:
    """Return the promise and its result as one sentence."""
    change, limit = promise.change, words.change("accuracy", -promise.max_loss)
    sentence = (
        f"{words.title(promise.task)} after {promise.after}: {words.change('accuracy', change.delta)} points "
        f"({words.level(confidence)} interval {words.interval('accuracy', change.low, change.high)}), "
        f"promised at least {limit}: {'kept' if promise.is_kept else 'broken'}"
    )
    if promise.share_of_change < 1:
        sentence += f"; {words.percent(promise.share_of_change)} of the trained weight change was kept to fulfil it"
    return f"{sentence}."


def pair_verdict(comparison: PairComparison, confidence: float) -> str:
    """Return the differences between two runs in the headline tasks as one sentence."""
    clauses = []
    for sign, changes in groupby(comparison.changes, direction):
        tasks = [f"{words.title(change.task)} ({amount(change, confidence)})" for change in changes]
        clauses.append(f"{_AGAINST[sign]} {words.printable(comparison.first)} in {words.listing(tasks)}")
    return f"{words.printable(comparison.second)} {', but '.join(clauses)}."


def amount(change: TaskDelta, confidence: float) -> str:
    """Return a change with its interval, e.g. `+4.0 points, 95 % interval +1.0 to +7.0`."""
    return (
        f"{words.change(change.metric, change.delta)} {words.unit(change.metric)}, "
        f"{words.level(confidence)} interval {words.interval(change.metric, change.low, change.high)}"
    )


def _before_and_after(value: TaskValue, confidence: float) -> str:
    after = words.value(value.metric, value.value)
    if not value.change:
        return f"{words.title(value.task)} {after}"
    before = words.value(value.metric, value.change.base)
    return f"{words.title(value.task)} {before} → {after}: {amount(value.change, confidence)}"
