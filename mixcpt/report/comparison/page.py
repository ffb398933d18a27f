"""The page of a comparison: one HTML file that needs nothing else, neither network nor script."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcpt.records.comparison import Comparison
from mixcpt.report import words
from mixcpt.report.comparison.summary import (
    ComparisonSummary,
    markdown_comparison,
    recommendation,
    summarise_comparison,
)
from mixcpt.report.figures import svg
from mixcpt.report.figures.comparison import describe_comparison, draw_comparison
from mixcpt.report.page import Picture, environment, write_page


def write_comparison(summary: ComparisonSummary, output: Path) -> Path:
    """Returns `output` after writing the page there in one step.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    said = describe_comparison(summary)
    page = environment().get_template("comparison.html.j2").render(
        summary=summary,
        recommendation=recommendation(summary),
        picture=Picture(svg.inline(draw_comparison(summary), "contest", said), said),
    )  # fmt: skip
    return write_page(page, output)


def show(comparison: Comparison, store: Path) -> None:
    """Prints the table of a comparison and where its page lies, with the same as Markdown beside it."""
    summary = summarise_comparison(comparison)
    console = Console()
    console.print(comparison_table(summary))
    console.print(Text(recommendation(summary)))
    page = store.expanduser() / f"comparison-{comparison.config.name}.html"
    page.with_suffix(".md").write_text(markdown_comparison(summary), encoding="utf-8")
    console.print(f"page: {write_comparison(summary, page)}", markup=False, highlight=False, soft_wrap=True)


def comparison_table(summary: ComparisonSummary) -> Table:
    """Returns the headline tasks and the price of every contender, for a terminal."""
    table = Table(
        title=Text(f"{words.printable(summary.name)}: {len(summary.seeds)} seeds, change to base with interval")
    )
    table.add_column("contender", no_wrap=True)
    table.add_column(Text(words.title(summary.setting.rpartition(".")[2])), justify="right")
    tasks = list(dict.fromkeys((summary.headline_domain, summary.headline_general)))
    for heading in (*(words.title(task) for task in tasks), "compute"):
        table.add_column(Text(heading), justify="right")
    for row in summary.rows:
        changes = [row.changes[task] for task in tasks]
        cells = [
            f"{words.value(change.metric, change.value)}\n{words.change(change.metric, change.delta)} "
            f"[{words.change(change.metric, change.low)}, {words.change(change.metric, change.high)}]"
            for change in changes
        ]
        name = Text(words.shortened(row.contender, 24), style="bold" if row.is_on_front else "")
        table.add_row(name, f"{row.value:g}", *(Text(cell) for cell in cells), words.magnitude(row.cost.flops, "FLOP"))
    return table
