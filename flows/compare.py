"""Methods against each other: each tuned alike, every seed, equal effort, one page."""

from prefect import flow

from flows.trials import run_trials
from mixcpt.config import CompareConfig
from mixcpt.records.comparison import Comparison
from mixcpt.records.run import RunResult
from tasks.comparison import (
    OpenComparison,
    chosen_values,
    equal_lengths,
    judged,
    open_comparison,
    publish_comparison,
    report_trials,
    search_trials,
)
from tasks.hooks import HOOKS
from tasks.trials import Trial


@flow(
    name="compare",
    flow_run_name="{config.name}",
    **HOOKS,
)
def compare(config: CompareConfig) -> Comparison:
    """Compare methods at equal effort.

    Each contender is tuned with the first seed on the selection split, then trained with every seed at its best value
    and asked the report split, whose questions chose nothing. Trainings that the store has are not done again.
    """
    opened = open_comparison(config)
    searched = search_trials(config)
    found = _run(opened, "search", searched)
    tried = judged(config, searched, found)
    reported = report_trials(config, chosen_values(config, tried), equal_lengths(config, searched, found))
    return publish_comparison(opened, tried, reported, _run(opened, "report", reported))


def _run(opened: OpenComparison, purpose: str, given: list[Trial]) -> list[RunResult]:
    config = opened.config
    named = f"{config.name}: {purpose}"
    return run_trials(named, given, parent=opened.run_id, retries=config.runtime.retries, jobs=config.jobs)
