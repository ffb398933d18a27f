"""Result of a search for a mixture, in words and as settings."""

import yaml

from mixcpt.config.compare import Point
from mixcpt.records.comparison import Advice
from mixcpt.report import words
from mixcpt.report.comparison.summary import summarise_comparison
from mixcpt.report.comparison.text import markdown_comparison


def recommended_settings(advice: Advice) -> str:
    """Return the changed settings of the best training as YAML for a run."""
    return str(yaml.safe_dump(advice.config.changes(advice.best.point), sort_keys=False))


def recommended(advice: Advice) -> str:
    """Return the recommended settings and their gain on the report split as one paragraph."""
    summary = summarise_comparison(advice.confirmation)
    advised = next(row for row in summary.rows if row.contender == "advised")
    gains = [
        f"{words.title(task)} {words.change(change.metric, change.delta)} {words.unit(change.metric)} "
        f"({words.level(summary.confidence)} interval {words.interval(change.metric, change.low, change.high)})"
        for task, change in advised.against_first.items()
        if task in summary.headlines
    ]
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
