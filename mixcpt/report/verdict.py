"""The result in one sentence, with its uncertainty."""

from enum import Enum
from itertools import groupby

from mixcpt.evaluate import Known, TaskDelta
from mixcpt.report import words
from mixcpt.report.summary import PairComparison, RunSummary, Summary, TaskValue


class Direction(Enum):
    """Which way a change goes, so far as its interval can tell."""

    BETTER = "better"
    WORSE = "worse"
    UNSURE = "no sure change"


_LEARNED = {
    Direction.BETTER: "gained in the domain",
    Direction.WORSE: "lost in the domain",
    Direction.UNSURE: "shows no sure gain in the domain",
}
_KEPT = {
    Direction.BETTER: "gained in general",
    Direction.WORSE: "lost in general",
    Direction.UNSURE: "shows no sure loss in general",
}
_AGAINST = {
    Direction.BETTER: "is better than",
    Direction.WORSE: "is worse than",
    Direction.UNSURE: "does not surely differ from",
}
MARKS = {Direction.BETTER: "▲", Direction.WORSE: "▼", Direction.UNSURE: "≈"}
"""The sign of each direction, readable without colour."""


def direction(change: TaskDelta) -> Direction:
    """Returns better or worse where the interval leaves zero out, else unsure."""
    low, high = (change.low, change.high) if change.higher_is_better else (-change.high, -change.low)
    return Direction.BETTER if low > 0 else Direction.WORSE if high < 0 else Direction.UNSURE


def run_verdict(summary: Summary, run: RunSummary) -> str:
    """Returns one sentence: what the run's final model learned and what it kept."""
    learned, kept = (run.final.tasks[task] for task in (summary.headline_domain, summary.headline_general))
    gain, loss = (value.change and direction(value.change) for value in (learned, kept))
    joint = "and" if (gain is Direction.BETTER) == (loss is not Direction.WORSE) else "but"
    gained = f"{_LEARNED[gain or Direction.UNSURE]} ({_course(learned, summary.confidence)})"
    lost = f"{_KEPT[loss or Direction.UNSURE]} ({_course(kept, summary.confidence)})"
    return f"{words.printable(run.name)} {gained} {joint} {lost}."


def known_verdict(known: Known, confidence: float) -> str:
    """Returns one sentence: whether training was worth it, beside the base with the document at hand."""
    task, shares = words.title(known.task), (known.closed_book, known.open_book, known.trained)
    closed, opened, trained = (words.percent(share) for share in shares)
    asked = f"Of {words.count(known.n)} {task} the base answers {closed} by itself, {opened} with the document at hand"
    ends = words.interval("accuracy", known.low, known.high)
    by = f"{words.level(confidence)} interval of the difference {ends} points"
    if known.low > 0:
        return f"{asked}; trained, it answers {trained} without any document, surely more ({by})."
    if known.high < 0:
        return f"{asked}; trained, only {trained} without one ({by}): prompting or retrieval already does better."
    return f"{asked}; trained, {trained} without one ({by}): prompting or retrieval may do as well."


def pair_verdict(comparison: PairComparison, confidence: float) -> str:
    """Returns one sentence: where the second run is better or worse than the first, and by how much."""
    clauses = []
    for sign, changes in groupby(comparison.changes, direction):
        tasks = [f"{words.title(change.task)} ({amount(change, confidence)})" for change in changes]
        clauses.append(f"{_AGAINST[sign]} {words.printable(comparison.first)} in {words.listing(tasks)}")
    return f"{words.printable(comparison.second)} {', but '.join(clauses)}."


def amount(change: TaskDelta, confidence: float) -> str:
    """Returns e.g. `+4.0 points, 95 % interval +1.0 to +7.0`."""
    return (
        f"{words.change(change.metric, change.delta)} {words.unit(change.metric)}, "
        f"{words.level(confidence)} interval {words.interval(change.metric, change.low, change.high)}"
    )


def _course(value: TaskValue, confidence: float) -> str:
    after = words.value(value.metric, value.value)
    if not value.change:
        return f"{words.title(value.task)} {after}"
    before = words.value(value.metric, value.change.base)
    return f"{words.title(value.task)} {before} → {after}: {amount(value.change, confidence)}"
