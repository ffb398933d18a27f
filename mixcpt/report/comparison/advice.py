"""Result of a search for a mixture: in words, as settings and as a self-contained page."""

from pathlib import Path

import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from mixcpt.config.compare import Point
from mixcpt.records.comparison import Advice
from mixcpt.report import words
from mixcpt.report.comparison.page import headline_amounts, markdown_comparison
from mixcpt.report.comparison.summary import summarise_comparison
from mixcpt.report.html import render_page, write_page


def recommended_settings(advice: Advice) -> str:
    """Return the changed settings of the best training as YAML for a run."""
    return str(yaml.safe_dump(advice.config.changes(advice.best.point), sort_keys=False))


def recommended(advice: Advice) -> str:
    """Return the recommended settings and their gain on the report split as one paragraph."""
    summary = summarise_comparison(advice.confirmation)
    advised = next(row for row in summary.rows if row.contender == "advised")
    gains = [f"{task} {amount}" for task, amount in headline_amounts(summary, advised.against_first).items()]
    return (
        f"The best of {len(advice.attempts)} trainings on the selection questions has {describe(advice.best.point)}. "
        f"On the report questions, over {len(summary.seeds)} seeds, it differs from the given settings by: "
        f"{words.listing(gains)}."
    )


def describe(point: Point) -> str:
    """Return a point of the search in words."""
    return words.listing([f"{words.SETTINGS[name]} {value:.3g}" for name, value in point.items()])


def markdown_advice(advice: Advice) -> str:
    """Return recommendation, settings and confirmation as Markdown."""
    settings = f"```yaml\n{recommended_settings(advice)}```"
    confirmation = markdown_comparison(summarise_comparison(advice.confirmation))
    return "\n\n".join([recommended(advice), settings, confirmation])


def write_advice(advice: Advice, output: Path) -> Path:
    """Write the page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    from mixcpt.report.comparison.figures import describe_advice, draw_advice
    from mixcpt.report.figures import svg

    summary = summarise_comparison(advice.confirmation)
    page = render_page(
        "advice.html.j2",
        advice=advice,
        summary=summary,
        recommended=recommended(advice),
        settings=recommended_settings(advice),
        setting_titles=words.SETTINGS,
        picture=svg.picture(draw_advice(advice, summary), "advice", describe_advice(advice)),
    )
    return write_page(page, output)


def show_advice(advice: Advice, store: Path) -> None:
    """Print the recommendation, write the page to the store and print its path."""
    console = Console()
    console.print(Text(recommended(advice)))
    console.print(Syntax(recommended_settings(advice), "yaml", background_color="default"))
    page = write_advice(advice, store.expanduser() / f"advice-{advice.config.name}.html")
    console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
