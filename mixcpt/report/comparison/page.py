"""Page and terminal table of a comparison; the page is one self-contained HTML file."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.evaluate.statistics.across_seeds import SeedsDelta
from mixcpt.records.comparison import Comparison
from mixcpt.report import words
from mixcpt.report.comparison.summary import ComparisonSummary, Row, summarise_comparison
from mixcpt.report.comparison.text import markdown_comparison, recommendation
from mixcpt.report.figures import svg
from mixcpt.report.figures.comparison import describe_comparison, draw_comparison
from mixcpt.report.page import Picture, environment, write_page


def write_comparison(summary: ComparisonSummary, output: Path) -> Path:
    """Write the page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    caption = describe_comparison(summary)
    page = environment().get_template("comparison.html.j2").render(
        summary=summary,
        recommendation=recommendation(summary),
        picture=Picture(svg.inline(draw_comparison(summary), "comparison", caption), caption),
    )  # fmt: skip
    return write_page(page, output)


def show(comparison: Comparison, store: Path) -> None:
    """Print the table of a comparison, write its page and its Markdown to the store, and print their path."""
    summary = summarise_comparison(comparison)
    console = Console()
    console.print(comparison_table(summary))
    console.print(Text(recommendation(summary)))
    page = store.expanduser() / f"comparison-{comparison.config.name}.html"
    page.with_suffix(".md").write_text(markdown_comparison(summary), encoding="utf-8")
    console.print(f"page: {write_comparison(summary, page)}", markup=False, highlight=False, soft_wrap=True)


def comparison_table(summary: ComparisonSummary) -> Table:
    """Return the headline tasks and the compute of every contender, for a terminal."""
    title = f"{words.printable(summary.name)}: {len(summary.seeds)} seeds, change from the base with interval"
    table = Table(title=Text(title))
    table.add_column("contender", no_wrap=True)
    headings = [summary.setting_name, *summary.headlines, "compute"]
    for heading in headings:
        table.add_column(Text(words.title(heading)), justify="right")
    for row in summary.rows:
        table.add_row(*_cells(row, summary))
    return table


def _cells(row: Row, summary: ComparisonSummary) -> list[Text]:
    name = Text(words.shortened(row.contender, 24), style="bold" if row.is_on_front else "")
    changes = [Text(_change_cell(row.changes[task])) for task in summary.headlines]
    return [name, Text(f"{row.value:g}"), *changes, Text(words.magnitude(row.cost.flops, "FLOP"))]


def _change_cell(change: SeedsDelta) -> str:
    low, high = (words.change(change.metric, end) for end in (change.low, change.high))
    return f"{words.value(change.metric, change.value)}\n{words.change(change.metric, change.delta)} [{low}, {high}]"
