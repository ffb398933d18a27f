"""Page of a search for a mixture: one self-contained HTML file."""

from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from mixcpt.records.comparison import Advice
from mixcpt.report import words
from mixcpt.report.comparison.advice import recommended, recommended_settings
from mixcpt.report.comparison.summary import summarise_comparison
from mixcpt.report.figures import svg
from mixcpt.report.figures.search import describe_advice, draw_advice
from mixcpt.report.page import Picture, environment, write_page


def write_advice(advice: Advice, output: Path) -> Path:
    """Write the page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    summary = summarise_comparison(advice.confirmation)
    caption = describe_advice(advice)
    page = environment().get_template("advice.html.j2").render(
        advice=advice,
        summary=summary,
        recommended=recommended(advice),
        settings=recommended_settings(advice),
        setting_titles=words.SETTINGS,
        picture=Picture(svg.inline(draw_advice(advice, summary), "advice", caption), caption),
    )  # fmt: skip
    return write_page(page, output)


def show_advice(advice: Advice, store: Path) -> None:
    """Print the recommendation, write the page to the store and print its path."""
    console = Console()
    console.print(Text(recommended(advice)))
    console.print(Syntax(recommended_settings(advice), "yaml", background_color="default"))
    page = write_advice(advice, store.expanduser() / f"advice-{advice.config.name}.html")
    console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
