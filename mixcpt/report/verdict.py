"""Results in one sentence, with their uncertainty."""

import math
from enum import Enum
from itertools import groupby
from typing import TypeAlias

from mixcpt.evaluate import PriorKnowledge, TaskDelta
from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.report import words
from mixcpt.report.summary import PairComparison, Promise, RunSummary, Summary

Change: TypeAlias = TaskDelta | SeedsDelta
"""Change on one task, of one training or over several seeds."""


class Direction(Enum):
    """Direction of a change according to its interval."""

    BETTER = "better"
    WORSE = "worse"
    UNSURE = "no significant change"
    GUESSED = "at chance"
    """Neither model differs from guessing."""
    UNKNOWN = "too few passages"
    """Too few passages for an interval."""


NOT_MEASURED = "Forgetting was not measured: no task is general."
"""First sentence of a result without a general task."""
_LEARNED = {
    Direction.BETTER: "gained in the domain",
    Direction.WORSE: "lost in the domain",
    Direction.UNSURE: "shows no significant gain in the domain",
    Direction.GUESSED: "stays at chance in the domain",
    Direction.UNKNOWN: "has too few domain passages to show a gain",
}
_KEPT = {
    Direction.BETTER: "gained in general",
    Direction.WORSE: "lost in general",
    Direction.UNSURE: "shows no significant loss in general",
    Direction.GUESSED: "stays at chance in general, where nothing could be forgotten",
    Direction.UNKNOWN: "has too few general passages to show a loss",
}
_AGAINST = {
    Direction.BETTER: "is better than",
    Direction.WORSE: "is worse than",
    Direction.UNSURE: "does not differ significantly from",
    Direction.GUESSED: "is at chance like",
    Direction.UNKNOWN: "was measured on too few passages to differ from",
}
MARKS = {
    Direction.BETTER: "▲",
    Direction.WORSE: "▼",
    Direction.UNSURE: "≈",
    Direction.GUESSED: "≈",
    Direction.UNKNOWN: "?",
}
"""Symbols of the directions, readable without colour."""


def has_interval(change: Change) -> bool:
    """Return whether a change is about enough passages for an interval."""
    return not (change.has_few_passages or math.isnan(change.low) or math.isnan(change.high))


def direction(change: Change) -> Direction:
    """Return better or worse if the interval excludes zero; guessing and too few passages are never a change."""
    if not has_interval(change):
        return Direction.UNKNOWN
    if change.is_at_chance:
        return Direction.GUESSED
    low, high = (change.low, change.high) if change.higher_is_better else (-change.high, -change.low)
    return Direction.BETTER if low > 0 else Direction.WORSE if high < 0 else Direction.UNSURE


def lead(summary: Summary) -> list[str]:
    """Return the first sentences of a page: one for a pair of runs, otherwise one per run.

    If forgetting was not measured or a training diverged, the first sentences say so.
    """
    warning = [] if summary.headline_general else [NOT_MEASURED]
    warning += [run.divergence for run in summary.runs if run.divergence]
    if len(summary.runs) == 2:
        return [*warning, pair_verdict(summary.pairs[0], summary.confidence)]
    return [*warning, *(gain_and_loss(summary, run) for run in summary.runs)]


def run_verdict(summary: Summary, run: RunSummary) -> str:
    """Return the gain in the domain and the loss in general of a run's final model in words.

    If forgetting was not measured or the training diverged, the first sentences say so.
    """
    warning = "" if summary.headline_general else NOT_MEASURED
    return " ".join(filter(None, (warning, run.divergence, gain_and_loss(summary, run))))


def gain_and_loss(summary: Summary, run: RunSummary) -> str:
    """Return the gain in the domain and, if it was measured, the loss in general as one sentence."""
    learned, *kept = (run.final.tasks[task].change for task in summary.headlines)
    return gained_and_kept(run.name, learned, kept[0] if kept else None, summary.confidence)


def gained_and_kept(name: str, learned: Change | None, kept: Change | None, confidence: float) -> str:
    """Return a change in the domain and, if it was measured, in general as one sentence about `name`."""
    gain, loss = (direction(change) if change else Direction.UNSURE for change in (learned, kept))
    gained = f"{words.printable(name)} {_LEARNED[gain]}{_before_and_after(learned, confidence)}"
    if not kept:
        return f"{gained}."
    is_kept = loss in (Direction.BETTER, Direction.UNSURE)
    conjunction = "and" if (gain is Direction.BETTER) == is_kept else "but"
    return f"{gained} {conjunction} {_KEPT[loss]}{_before_and_after(kept, confidence)}."


def prior_knowledge_verdict(known: PriorKnowledge, confidence: float) -> str:
    """Return one sentence that compares the trained model with the base that is given the document."""
    closed, opened, trained = (words.percent(share) for share in (known.closed_book, known.open_book, known.trained))
    base = (
        f"Of {words.count(known.n)} {words.title(known.task)}, the base answers {closed} without and {opened} with "
        "the document in its prompt"
    )
    difference = words.interval("accuracy", known.low, known.high)
    if known.n < MIN_PASSAGES or math.isnan(known.low):
        return f"{base}; after training it answers {trained} without a document. These are too few for a conclusion."
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


def amount(change: Change, confidence: float) -> str:
    """Return a change with its interval or without, e.g. `+4.0 points, 95 % interval +1.0 to +7.0`.

    A change over too few passages has their number in place of an interval.
    """
    number = f"{words.change(change.metric, change.delta)} {words.unit(change.metric)}"
    if not has_interval(change):
        return f"{number}, {words.number_of(change.passages, 'passage')}"
    interval = words.interval(change.metric, change.low, change.high)
    chance = f", chance {words.value(change.metric, change.chance)}" if change.chance else ""
    return f"{number}, {words.level(confidence)} interval {interval}{chance}"


def change_cell(change: Change | None) -> str:
    """Return direction, change and interval, e.g. `▲ +4.0 [+1.0, +7.0]`; empty for the base."""
    return f"{MARKS[direction(change)]} {change_text(change)}" if change else ""


def change_text(change: Change) -> str:
    """Return a change with its interval; without one at chance or for too few passages."""
    number = words.change(change.metric, change.delta)
    match direction(change):
        case Direction.UNKNOWN:
            return f"{number} ({words.number_of(change.passages, 'passage')})"
        case Direction.GUESSED:
            return f"{number} (at chance)"
        case _:
            low, high = (words.change(change.metric, end) for end in (change.low, change.high))
            return f"{number} [{low}, {high}]"


def _before_and_after(change: Change | None, confidence: float) -> str:
    if not change:
        return ""
    before, after = (words.value(change.metric, value) for value in (change.base, change.value))
    return f" ({words.title(change.task)} {before} → {after}: {amount(change, confidence)})"
