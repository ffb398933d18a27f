"""Result of a comparison in words: a recommendation, a tie with the cheapest contender, or that nothing was shown."""

import math
from collections.abc import Iterable, Sequence
from itertools import product

from mixcpt.evaluate.guessing import MIN_PASSAGES
from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.report import words
from mixcpt.report.comparison.summary import Choice, ComparisonSummary, Row, cheapest
from mixcpt.report.verdict import MARKS, NOT_MEASURED, Direction, direction, gained_and_kept

_NO_DIFFERENCE = {
    Direction.UNSURE: "the intervals of the differences include zero",
    Direction.GUESSED: "the scores are at chance",
    Direction.UNKNOWN: f"there are fewer than {MIN_PASSAGES} passages, too few for an interval",
}
_BY_SCORE = "by the questions that choose, which are not reported here"


def recommendation(summary: ComparisonSummary) -> str:
    """Return the result of a comparison as one paragraph; see `lead`."""
    return " ".join(lead(summary))


def lead(summary: ComparisonSummary) -> list[str]:
    """Return the first sentences of a page.

    They recommend a contender only if it gained in the domain and differs from all others. For a tie they name the
    cheapest contender. If forgetting was not measured, the first sentence says so.
    """
    warning = [] if summary.headline_general else [NOT_MEASURED]
    best, *others = summary.choice
    if not others:
        return [*warning, _reported(summary, best.contender)]
    better = [choice for choice in others if choice.is_better]
    tied = [choice for choice in others if choice.is_tied]
    if better:
        return [*warning, *_disagreement(summary, best, better)]
    if tied:
        return [*warning, *_tie(summary, [best, *tied])]
    if direction(row_of(summary, best.contender).changes[summary.headline_domain]) is not Direction.BETTER:
        return [*warning, *_nothing_learned(summary, best)]
    return [*warning, *_recommended(summary, best, others[0])]


def row_of(summary: ComparisonSummary, contender: str) -> Row:
    """Return the row of a contender."""
    return next(row for row in summary.rows if row.contender == contender)


def no_difference(changes: Iterable[SeedsDelta]) -> str:
    """Return the reasons for which changes show no difference, e.g. `in use, the scores are at chance`."""
    reasons: dict[str, list[str]] = {}
    for change in changes:
        reasons.setdefault(words.title(change.task), []).append(_NO_DIFFERENCE[direction(change)])
    tasks: dict[str, list[str]] = {}
    for task, own in reasons.items():
        tasks.setdefault(words.listing(list(dict.fromkeys(own))), []).append(task)
    return "; ".join(f"in {words.listing(names)}, {reason}" for reason, names in tasks.items())


def cost_verdict(rows: Sequence[Row]) -> str:
    """Return the cheapest of several contenders as a statement about cost."""
    low, high = cheapest(rows), max(rows, key=_cost_order)
    names = [words.printable(row.contender) for row in low]
    if len(low) == len(rows):
        return f"They cost about the same ({cost(low[0])} for one training), so take any of them."
    if len(low) > 1:
        cheap, choice = f"{words.listing(names)} cost the least, about the same", f"one of {words.listing(names)}"
    else:
        cheap, choice = f"{names[0]} is the cheapest of them", names[0]
    costs = f"{cost(low[0])} for one training; {words.printable(high.contender)}: {cost(high)}"
    return f"{cheap} ({costs}): take {choice} for the cost, not for a better result."


def cost(row: Row) -> str:
    """Return compute, time of the devices and, if it is known, price of one training."""
    parts = [words.magnitude(row.cost.flops, "FLOP"), f"{words.duration(row.device_seconds)} of device time"]
    return ", ".join([*parts, *([f"price {row.price:,.2f}"] if row.price else [])])


def legend(summary: ComparisonSummary) -> str:
    """Return the legend of the tables of changes."""
    better, worse, unsure = (MARKS[way] for way in (Direction.BETTER, Direction.WORSE, Direction.UNSURE))
    level = words.level(summary.confidence)
    text = (
        f"{better} better, {worse} worse, {unsure} no significant change, by the {level} interval for new seeds and "
        "new passages (crossed random effects, Satterthwaite's degrees of freedom); accuracy in points."
    )
    ways = set(map(direction, summary.differences))
    if Direction.UNKNOWN in ways:
        text += f" {MARKS[Direction.UNKNOWN]} fewer than {MIN_PASSAGES} passages, too few for an interval."
    if Direction.GUESSED in ways:
        text += " At chance: neither side differs from guessing."
    return text


def score(choice: Choice) -> str:
    """Return a selection score with its spread over the seeds."""
    spread = "" if math.isnan(choice.spread) else f" ± {choice.spread:.3f}"
    return words.score(choice.score) + spread


def _tie(summary: ComparisonSummary, tied: Sequence[Choice]) -> list[str]:
    """Return the result for tied contenders, of which the first has the best score."""
    names = {choice.contender for choice in tied}
    rows = [row for row in summary.rows if row.contender in names]
    changes = [choice.against_best[task] for task, choice in product(summary.headlines, tied[1:])]
    shown = words.listing([words.printable(row.contender) for row in rows])
    sentences = [f"No difference was shown between {shown}: {no_difference(changes)}.", cost_verdict(rows)]
    others = [choice for choice in summary.choice if choice.contender not in names]
    return [*sentences, *_against_others(summary, tied[0], others), _reported(summary, cheapest(rows)[0].contender)]


def _disagreement(summary: ComparisonSummary, best: Choice, better: Sequence[Choice]) -> list[str]:
    names = words.listing([words.printable(choice.contender) for choice in better])
    name = words.printable(best.contender)
    return [
        f"No contender is recommended: {name} has the best score {_BY_SCORE} ({score(best)}), but on the reported "
        f"questions {names} {'is' if len(better) == 1 else 'are'} better.",
        *_against_others(summary, best, summary.choice[1:]),
        _reported(summary, best.contender),
    ]


def _nothing_learned(summary: ComparisonSummary, best: Choice) -> list[str]:
    name = words.printable(best.contender)
    return [
        f"No contender is recommended: {name} has the best score {_BY_SCORE} ({score(best)}), but no gain in the "
        "domain was shown for it.",
        _reported(summary, best.contender),
        *_against_others(summary, best, summary.choice[1:]),
    ]


def _recommended(summary: ComparisonSummary, best: Choice, second: Choice) -> list[str]:
    scores = f"score {score(best)}; next {words.printable(second.contender)}, {score(second)}"
    return [
        f"Recommended, {_BY_SCORE}: {words.printable(best.contender)} ({scores}).",
        _reported(summary, best.contender),
        *_against_others(summary, best, summary.choice[1:]),
    ]


def _reported(summary: ComparisonSummary, contender: str) -> str:
    changes = row_of(summary, contender).changes
    learned, *kept = (changes[task] for task in summary.headlines)
    sentence = gained_and_kept(contender, learned, kept[0] if kept else None, summary.confidence)
    seeds = f"over {words.number_of(len(summary.seeds), 'seed')}, " if len(summary.seeds) > 1 else ""
    return f"On the reported questions, {seeds}{sentence}"


def _against_others(summary: ComparisonSummary, best: Choice, others: Sequence[Choice]) -> list[str]:
    """Return the tasks in which the best score is shown to be better or worse than the others, in one sentence."""
    clauses = []
    for relation, way in (("better than", Direction.WORSE), ("worse than", Direction.BETTER)):  # changes of the others
        for task in summary.headlines:
            found = [choice for choice in others if direction(choice.against_best[task]) is way]
            names = words.listing([words.printable(choice.contender) for choice in found])
            clauses += [f"{relation} {names} in {words.title(task)}"] if found else []
    return [f"{words.printable(best.contender)} is {'; '.join(clauses)}."] if clauses else []


def _cost_order(row: Row) -> tuple[float, float]:
    return row.cost.flops or 0, row.device_seconds
