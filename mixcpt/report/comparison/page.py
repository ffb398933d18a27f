"""Tables and self-contained page of a comparison."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.records.comparison import Comparison
from mixcpt.report import verdict, words
from mixcpt.report.comparison.summary import ComparisonSummary, Row, summarise_comparison
from mixcpt.report.comparison.verdict import lead, legend, recommendation
from mixcpt.report.html import render_page, write_page
from mixcpt.report.table import markdown_rows

_MOST_COLUMNS = 5
"""Maximum number of contenders in one table of the page, so that it fits on a screen and on paper."""


def write_comparison(summary: ComparisonSummary, output: Path) -> Path:
    """Write the page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    from mixcpt.report.comparison.figures import describe_comparison, draw_comparison
    from mixcpt.report.figures import svg

    page = render_page(
        "comparison.html.j2",
        summary=summary,
        lead=lead(summary),
        legend=legend(summary),
        verdict=verdict,
        parts=column_groups(summary.rows),
        others=column_groups(summary.rows[1:]),
        costs=cost_rows(summary.rows),
        picture=svg.picture(draw_comparison(summary), "comparison", describe_comparison(summary)),
    )
    return write_page(page, output)


def show_comparison(comparison: Comparison, store: Path) -> None:
    """Print result and table of a comparison, write page and Markdown to the store, and print the path of the page."""
    summary = summarise_comparison(comparison)
    console = Console()
    for sentence in lead(summary):
        console.print(Text(sentence))
    console.print(_terminal_table(summary))
    page = store.expanduser() / f"comparison-{comparison.config.name}.html"
    page.with_suffix(".md").write_text(markdown_comparison(summary), encoding="utf-8")
    console.print(f"page: {write_comparison(summary, page)}", markup=False, highlight=False, soft_wrap=True)


def column_groups(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Return the contenders in groups of about equal size, one per table of the page."""
    num_groups = math.ceil(len(rows) / _MOST_COLUMNS)
    borders = [len(rows) * place // num_groups for place in range(num_groups + 1)] if rows else []
    return [rows[start:end] for start, end in pairwise(borders)]


def cost_rows(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Return the costs of one training by title and contender; the price only if it is known."""
    titles = {
        "tokens trained on": lambda row: words.count(row.cost.tokens),
        "compute": lambda row: words.magnitude(row.cost.flops, "FLOP"),
        "device time": lambda row: words.duration(row.device_seconds),
        "peak memory": lambda row: words.size(row.cost.peak_memory_bytes),
    }
    if any(row.price for row in rows):
        titles["price"] = lambda row: words.MISSING if row.price is None else f"{row.price:,.2f}"
    return {title: {row.contender: text(row) for row in rows} for title, text in titles.items()}


def comparison_rows(summary: ComparisonSummary) -> list[dict[str, Any]]:
    """Return the table as plain data, one row per contender; the ends of an interval are None if there is none."""
    rows = []
    for row in summary.rows:
        fields: dict[str, Any] = {"contender": row.contender, summary.setting_name: row.value}
        for task in summary.headlines:
            change = row.changes[task]
            numbers = {"value": change.value, "change": change.delta, "low": change.low, "high": change.high}
            fields |= {f"{task} {name}": _rounded(number) for name, number in numbers.items()}
            if task in summary.chances:
                fields[f"{task} chance"] = _rounded(summary.chances[task])
        cost = {name: getattr(row.cost, name) for name in ("tokens", "flops", "seconds")}
        rows.append(fields | {"on the front": row.is_on_front} | cost)
    return rows


def markdown_comparison(summary: ComparisonSummary) -> str:
    """Return result, tables, claims and promises as Markdown."""
    tables = [_results(summary), _claims(summary), _promises(summary)]
    notes = f"{legend(summary)} Front: no other contender has higher means in what it learned and kept."
    results, *others = (markdown_rows(table) for table in tables if len(table) > 1)
    return "\n".join([f"{recommendation(summary)}\n", f"{results}\n{words.markdown(notes, 1000)}\n", *others])


def _rounded(number: float) -> float | None:
    return round(number, 4) if math.isfinite(number) else None


def _results(summary: ComparisonSummary) -> list[list[str]]:
    costs = cost_rows(summary.rows)
    table = [["contender", summary.setting_name, *(words.title(task) for task in summary.rows[0].changes), *costs]]
    if summary.chances:
        chances = [words.value("accuracy", summary.chances.get(task)) for task in summary.rows[0].changes]
        table.append(["chance", "", *chances, *("" for _ in costs)])
    for row in summary.rows:
        name = row.contender + (" (front)" if row.is_on_front else "")
        values = [
            f"{words.value(each.metric, each.value)} {verdict.change_cell(each)}" for each in row.changes.values()
        ]
        table.append([name, f"{row.value:g}", *values, *(texts[row.contender] for texts in costs.values())])
    return table


def _claims(summary: ComparisonSummary) -> list[list[str]]:
    rows = [[result.claim.statement, result.verdict, verdict.change_text(result.change)] for result in summary.claims]
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
    title = f"{words.printable(summary.name)}: {words.number_of(len(summary.seeds), 'seed')}, change from the base"
    table = Table(title=Text(title), caption=Text(legend(summary)), caption_justify="left")
    table.add_column("contender", overflow="fold")
    table.add_column(Text(words.title(summary.setting_name)), justify="right")
    for task in summary.headlines:
        chance = f"\nchance {words.value('accuracy', summary.chances[task])}" if task in summary.chances else ""
        table.add_column(Text(words.title(task) + chance), justify="right")
    table.add_column("compute", justify="right")
    for row in summary.rows:
        changes = [row.changes[task] for task in summary.headlines]
        cells = [Text(f"{words.value(each.metric, each.value)}\n{verdict.change_cell(each)}") for each in changes]
        name = Text(words.shortened(row.contender, 24))
        table.add_row(name, f"{row.value:g}", *cells, words.magnitude(row.cost.flops, "FLOP"))
    return table
