"""Texts, tables and self-contained page of a comparison."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.records.comparison import Comparison
from mixcpt.report import words
from mixcpt.report.comparison.summary import Choice, ComparisonSummary, summarise_comparison
from mixcpt.report.html import render_page, write_page
from mixcpt.report.table import markdown_rows


def write_comparison(summary: ComparisonSummary, output: Path) -> Path:
    """Write the page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    from mixcpt.report.comparison.figures import describe_comparison, draw_comparison
    from mixcpt.report.figures import svg

    picture = svg.picture(draw_comparison(summary), "comparison", describe_comparison(summary))
    text = recommendation(summary)
    return write_page(render_page("comparison.html.j2", summary=summary, recommendation=text, picture=picture), output)


def show_comparison(comparison: Comparison, store: Path) -> None:
    """Print the table of a comparison, write its page and its Markdown to the store, and print the path of the page."""
    summary = summarise_comparison(comparison)
    console = Console()
    console.print(_terminal_table(summary))
    console.print(Text(recommendation(summary)))
    page = store.expanduser() / f"comparison-{comparison.config.name}.html"
    page.with_suffix(".md").write_text(markdown_comparison(summary), encoding="utf-8")
    console.print(f"page: {write_comparison(summary, page)}", markup=False, highlight=False, soft_wrap=True)


def recommendation(summary: ComparisonSummary) -> str:
    """Return the recommended contender with its score, its changes and their intervals as one paragraph."""
    front = words.listing([words.printable(row.contender) for row in summary.rows if row.is_on_front])
    best, *others = summary.choice
    row = next(row for row in summary.rows if row.contender == best.contender)
    scores = ""
    if others:
        scores = f" (score {_score(best)}; next {words.printable(others[0].contender)}, {_score(others[0])})"
    changes = [f"{task} by {amount}" for task, amount in headline_amounts(summary, row.changes).items()]
    text = (
        f"No contender learned more and kept more than {front}. "
        f"Recommended, by questions that are not reported here: {words.printable(row.contender)}{scores}. "
        f"On the reported questions, over {len(summary.seeds)} seeds, it changed {words.listing(changes)}"
    )
    if row.against_first:
        amounts = headline_amounts(summary, row.against_first)
        differences = words.listing([f"{task} by {amount}" for task, amount in amounts.items()])
        text += f"; the difference from {words.printable(summary.rows[0].contender)} is {differences}"
    return f"{text}."


def headline_amounts(summary: ComparisonSummary, changes: Mapping[str, SeedsDelta]) -> dict[str, str]:
    """Return the changes on the headline tasks by title, e.g. `+4.0 points (95 % interval +1.0 to +7.0)`."""
    amounts = {}
    for task in summary.headlines:
        change = changes[task]
        interval = words.interval(change.metric, change.low, change.high)
        amount = f"{words.change(change.metric, change.delta)} {words.unit(change.metric)}"
        amounts[words.title(task)] = f"{amount} ({words.level(summary.confidence)} interval {interval})"
    return amounts


def comparison_rows(summary: ComparisonSummary) -> list[dict[str, Any]]:
    """Return the table as plain data, one row per contender."""
    rows = []
    for row in summary.rows:
        fields: dict[str, Any] = {"contender": row.contender, summary.setting_name: row.value}
        for task in summary.headlines:
            change = row.changes[task]
            numbers = {"value": change.value, "change": change.delta, "low": change.low, "high": change.high}
            fields |= {f"{task} {name}": round(number, 4) for name, number in numbers.items()}
        cost = {name: getattr(row.cost, name) for name in ("tokens", "flops", "seconds")}
        rows.append(fields | {"on the front": row.is_on_front} | cost)
    return rows


def markdown_comparison(summary: ComparisonSummary) -> str:
    """Return recommendation, results, claims and promises as Markdown."""
    tables = [_results(summary), _claims(summary), _promises(summary)]
    return "\n".join([f"{recommendation(summary)}\n", *(markdown_rows(table) for table in tables if len(table) > 1)])


def _results(summary: ComparisonSummary) -> list[list[str]]:
    tasks = list(summary.rows[0].changes)
    table = [["contender", summary.setting_name, *(words.title(task) for task in tasks), "compute", "time"]]
    for row in summary.rows:
        name = row.contender + (" (front)" if row.is_on_front else "")
        values = [f"{words.value(change.metric, change.value)} {_interval(change)}" for change in row.changes.values()]
        costs = [words.magnitude(row.cost.flops, "FLOP"), words.duration(row.cost.seconds)]
        table.append([name, f"{row.value:g}", *values, *costs])
    return table


def _claims(summary: ComparisonSummary) -> list[list[str]]:
    rows = [[result.claim.statement, result.verdict, _change(result.change)] for result in summary.claims]
    return [["claim", "verdict", "difference"], *rows]


def _promises(summary: ComparisonSummary) -> list[list[str]]:
    table = [["contender", "task", "promised at least", "kept", "worst"]]
    for result in summary.promises:
        name = result.contender + ("" if result.is_own else " (promised nothing)")
        limit, worst = (words.change("accuracy", change) for change in (-result.max_loss, result.worst))
        table.append([name, words.title(result.task), limit, f"{result.num_kept} of {len(summary.seeds)}", worst])
    return table


def _terminal_table(summary: ComparisonSummary) -> Table:
    """Return the headline tasks and the compute of every contender."""
    title = f"{words.printable(summary.name)}: {len(summary.seeds)} seeds, change from the base with interval"
    table = Table(title=Text(title))
    table.add_column("contender", no_wrap=True)
    for heading in [summary.setting_name, *summary.headlines, "compute"]:
        table.add_column(Text(words.title(heading)), justify="right")
    for row in summary.rows:
        name = Text(words.shortened(row.contender, 24), style="bold" if row.is_on_front else "")
        changes = [row.changes[task] for task in summary.headlines]
        cells = [Text(f"{words.value(change.metric, change.value)}\n{_change(change)}") for change in changes]
        table.add_row(name, f"{row.value:g}", *cells, words.magnitude(row.cost.flops, "FLOP"))
    return table


def _change(change: SeedsDelta) -> str:
    return f"{words.change(change.metric, change.delta)} {_interval(change)}"


def _interval(change: SeedsDelta) -> str:
    low, high = (words.change(change.metric, end) for end in (change.low, change.high))
    return f"[{low}, {high}]"


def _score(choice: Choice) -> str:
    spread = "" if math.isnan(choice.spread) else f" ± {choice.spread:.3f}"
    return words.score(choice.score) + spread
