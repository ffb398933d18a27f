"""A comparison as text: recommendation, plain rows and Markdown."""

import math
from collections.abc import Sequence
from typing import Any

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.report import words
from mixcpt.report.comparison.summary import Choice, ComparisonSummary


def recommendation(summary: ComparisonSummary) -> str:
    """Return the recommended contender with its score, its changes and their intervals as one paragraph."""
    front = words.listing([words.printable(row.contender) for row in summary.rows if row.is_on_front])
    best, *others = summary.choice
    row = next(row for row in summary.rows if row.contender == best.contender)
    scores = ""
    if others:
        scores = f" (score {_score(best)}; next {words.printable(others[0].contender)}, {_score(others[0])})"
    changes = _changes([row.changes[task] for task in summary.headlines], summary)
    text = (
        f"No contender learned more and kept more than {front}. "
        f"Recommended, by questions that are not reported here: {words.printable(row.contender)}{scores}. "
        f"On the reported questions, over {len(summary.seeds)} seeds, it changed {changes}"
    )
    if row.against_first:
        differences = _changes([row.against_first[task] for task in summary.headlines], summary)
        text += f"; the difference from {words.printable(summary.rows[0].contender)} is {differences}"
    return f"{text}."


def comparison_rows(summary: ComparisonSummary) -> list[dict[str, Any]]:
    """Return the table as plain data, one row per contender."""
    rows = []
    for row in summary.rows:
        fields: dict[str, Any] = {"contender": row.contender, summary.setting_name: row.value}
        for task in summary.headlines:
            change = row.changes[task]
            numbers = {"value": change.value, "change": change.delta, "low": change.low, "high": change.high}
            fields |= {f"{task} {name}": round(number, 4) for name, number in numbers.items()}
        fields |= {
            "on the front": row.is_on_front,
            "tokens": row.cost.tokens,
            "flops": row.cost.flops,
            "seconds": row.cost.seconds,
        }
        rows.append(fields)
    return rows


def markdown_comparison(summary: ComparisonSummary) -> str:
    """Return recommendation, results, claims and promises as Markdown."""
    tables = [_results(summary), _claims(summary), _promises(summary)]
    return "\n\n".join([recommendation(summary), *("\n".join(table) for table in tables if table)]) + "\n"


def _results(summary: ComparisonSummary) -> list[str]:
    tasks = list(summary.rows[0].changes)
    titles = [words.title(task) for task in tasks]
    heading = ["contender", summary.setting_name, *titles, "compute", "time"]
    lines = [_line(heading), "|---|" + "---:|" * (len(heading) - 1)]
    for row in summary.rows:
        name = words.printable(row.contender) + (" (front)" if row.is_on_front else "")
        values = [_value_with_interval(row.changes[task]) for task in tasks]
        costs = [words.magnitude(row.cost.flops, "FLOP"), words.duration(row.cost.seconds)]
        lines.append(_line([name, f"{row.value:g}", *values, *costs]))
    return lines


def _claims(summary: ComparisonSummary) -> list[str]:
    if not summary.claims:
        return []
    lines = ["| claim | verdict | difference |", "|---|---|---:|"]
    for result in summary.claims:
        change = result.change
        difference = f"{words.change(change.metric, change.delta)} {_interval(change)}"
        lines.append(_line([words.printable(result.claim.statement), result.verdict, difference]))
    return lines


def _promises(summary: ComparisonSummary) -> list[str]:
    if not summary.promises:
        return []
    lines = ["| contender | task | promised at least | kept | worst |", "|---|---|---:|---:|---:|"]
    for result in summary.promises:
        name = words.printable(result.contender) + ("" if result.is_own else " (promised nothing)")
        limit, worst = (words.change("accuracy", change) for change in (-result.max_loss, result.worst))
        kept = f"{result.num_kept} of {len(summary.seeds)}"
        lines.append(_line([name, words.title(result.task), limit, kept, worst]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value_with_interval(change: SeedsDelta) -> str:
    return f"{words.value(change.metric, change.value)} {_interval(change)}"


def _interval(change: SeedsDelta) -> str:
    low, high = (words.change(change.metric, end) for end in (change.low, change.high))
    return f"\\[{low}, {high}\\]"


def _changes(changes: Sequence[SeedsDelta], summary: ComparisonSummary) -> str:
    level = words.level(summary.confidence)
    return words.listing(
        [
            f"{words.title(change.task)} by {words.change(change.metric, change.delta)} {words.unit(change.metric)} "
            f"({level} interval {words.interval(change.metric, change.low, change.high)})"
            for change in changes
        ]
    )


def _score(choice: Choice) -> str:
    spread = "" if math.isnan(choice.spread) else f" ± {choice.spread:.3f}"
    return words.score(choice.score) + spread
