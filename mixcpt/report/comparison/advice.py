"""Result of a search for a mixture: in words, as settings and as a self-contained page."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from mixcpt.config.compare import Point
from mixcpt.records.comparison import Advice
from mixcpt.report import verdict, words
from mixcpt.report.comparison.page import markdown_comparison
from mixcpt.report.comparison.summary import ComparisonSummary, Row, cheapest, summarise_comparison
from mixcpt.report.comparison.verdict import cost, cost_verdict, legend, no_difference, row_of
from mixcpt.report.html import render_page, write_page
from mixcpt.report.verdict import NOT_MEASURED, Direction, direction


def recommended_settings(advice: Advice) -> str:
    """Return the changed settings of the training with the best score as YAML for a run."""
    return str(yaml.safe_dump(advice.config.changes(advice.best.point), sort_keys=False))


def recommended(advice: Advice) -> str:
    """Return the result of a search as one paragraph; see `lead`."""
    return " ".join(lead(advice, summarise_comparison(advice.confirmation)))


def lead(advice: Advice, summary: ComparisonSummary) -> list[str]:
    """Return the first sentences of a page.

    They recommend the settings of the best training only if a headline task is better than with the given settings. If
    forgetting was not measured, the first sentence says so.

    Args:
        advice: Finished search.
        summary: Summary of its confirmation.
    """
    warning = [] if summary.headline_general else [NOT_MEASURED]
    best = f"The best of {len(advice.attempts)} trainings on the selection questions has {describe(advice.best.point)}."
    return [*warning, best, *_difference(summary)]


def is_recommended(summary: ComparisonSummary) -> bool:
    """Return whether a headline task is better with the advised settings than with the given ones."""
    return Direction.BETTER in _directions(summary).values()


def _advised(summary: ComparisonSummary) -> Row:
    return row_of(summary, "advised")


def _directions(summary: ComparisonSummary) -> dict[str, Direction]:
    changes = _advised(summary).against_first
    return {task: direction(changes[task]) for task in summary.headlines}


def _difference(summary: ComparisonSummary) -> list[str]:
    changes, ways = _advised(summary).against_first, _directions(summary)
    better, worse = (
        words.listing([words.title(task) for task, found in ways.items() if found is way])
        for way in (Direction.BETTER, Direction.WORSE)
    )
    if not better and not worse:
        reasons = no_difference(changes[task] for task in summary.headlines)
        return [f"No difference from the given settings was shown: {reasons}.", _tied_cost(summary.rows)]
    amounts = [f"{words.title(task)} {verdict.amount(changes[task], summary.confidence)}" for task in summary.headlines]
    seeds = f", over {words.number_of(len(summary.seeds), 'seed')}" if len(summary.seeds) > 1 else ""
    sentence = f"On the report questions{seeds}, it differs from the given settings by: {words.listing(amounts)}."
    if not better:
        return [sentence, f"It is worse in {worse} and not shown to be better: keep the given settings."]
    cautious = f", but worse in {worse}: take it if what is learned weighs more than what is lost" if worse else ""
    return [sentence, f"Recommended: it is better in {better}{cautious}."]


def _tied_cost(rows: Sequence[Row]) -> str:
    if len(low := cheapest(rows)) == len(rows):
        return f"Both cost about the same ({cost(low[0])} for one training): keep the given settings."
    return cost_verdict(rows)


def describe(point: Point) -> str:
    """Return a point of the search in words."""
    return words.listing([f"{words.SETTINGS[name]} {value:.3g}" for name, value in point.items()])


def markdown_advice(advice: Advice) -> str:
    """Return recommendation, settings and confirmation as Markdown."""
    summary = summarise_comparison(advice.confirmation)
    settings = f"{_settings_title(summary)}:\n\n```yaml\n{recommended_settings(advice)}```"
    return "\n\n".join([" ".join(lead(advice, summary)), settings, markdown_comparison(summary)])


def _settings_title(summary: ComparisonSummary) -> str:
    return "Recommended settings" if is_recommended(summary) else "Settings of the best training, not recommended"


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
        lead=lead(advice, summary),
        legend=legend(summary),
        verdict=verdict,
        settings_title=_settings_title(summary),
        settings=recommended_settings(advice),
        setting_titles=words.SETTINGS,
        picture=svg.picture(draw_advice(advice, summary), "advice", describe_advice(advice)),
    )
    return write_page(page, output)


def show_advice(advice: Advice, store: Path) -> None:
    """Print the recommendation, write the page to the store and print its path."""
    console = Console()
    summary = summarise_comparison(advice.confirmation)
    for sentence in lead(advice, summary):
        console.print(Text(sentence))
    console.print(f"{_settings_title(summary)}:", highlight=False)
    console.print(Syntax(recommended_settings(advice), "yaml", background_color="default"))
    page = write_advice(advice, store.expanduser() / f"advice-{advice.config.name}.html")
    console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
