"""What a search for a mixture came to, in words and as settings to take over."""

import yaml

from mixcpt.config.advise import Point
from mixcpt.records.search import Advice
from mixcpt.report import words
from mixcpt.report.comparison.summary import markdown_comparison, summarise_comparison


def recommended_settings(advice: Advice) -> str:
    """Returns what the best training changed, as YAML for a run's settings."""
    return str(yaml.safe_dump(advice.config.changes(advice.best.point), sort_keys=False))


def recommended(advice: Advice) -> str:
    """Returns one paragraph: what to set, and what it brings on questions that chose nothing."""
    summary = summarise_comparison(advice.confirmation)
    advised = next(row for row in summary.rows if row.contender == "advised")
    gains = [
        f"{words.title(task)} {words.change(change.metric, change.delta)} {words.unit(change.metric)} "
        f"({words.level(summary.confidence)} interval {words.interval(change.metric, change.low, change.high)})"
        for task, change in advised.against_first.items()
        if task in (summary.headline_domain, summary.headline_general)
    ]
    return (
        f"Of {len(advice.attempts)} trainings the best on the selection questions has {said(advice.best.point)}. "
        f"Over {len(summary.seeds)} seeds, on questions that chose nothing, that is against the settings as they were: "
        f"{words.listing(gains)}."
    )


def said(point: Point) -> str:
    """Returns a point in words."""
    return words.listing([f"{words.SETTINGS[name]} {value:.3g}" for name, value in point.items()])


def markdown_advice(advice: Advice) -> str:
    """Returns recommendation, settings and confirmation as Markdown."""
    settings = f"```yaml\n{recommended_settings(advice)}```"
    return "\n".join(
        [recommended(advice), "", settings, "", markdown_comparison(summarise_comparison(advice.confirmation))]
    )
