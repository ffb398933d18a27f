"""Compares methods at equal effort: tunes each in the same way, trains it with every seed, and writes one page."""

from prefect import flow

from flows.trials import run_trials
from mixcpt.config import CompareConfig
from mixcpt.records.comparison import Comparison
from mixcpt.records.run import RunResult
from tasks.checking import check
from tasks.comparison import (
    OpenComparison,
    Trial,
    chosen_values,
    equal_lengths,
    open_comparison,
    publish_comparison,
    report_trials,
    score_values,
    search_trials,
)
from tasks.hooks import HOOKS


@flow(name="compare", flow_run_name="{config.name}", **HOOKS)
def compare(config: CompareConfig) -> Comparison:
    """Compare methods at equal effort.

    Each contender is tuned with the first seed on the selection split. It is then trained with every seed at its best
    value and evaluated on the report split, which was not used for any choice. Trainings that are already in the
    store are not repeated.
    """
    check(config.first, config)
    opened = open_comparison(config)
    searched = search_trials(config)
    runs = _run(opened, "search", searched)
    tried = score_values(config, searched, runs)
    reported = report_trials(config, chosen_values(config, tried), equal_lengths(config, searched, runs))
    return publish_comparison(opened, tried, reported, runs=_run(opened, "report", reported))


def _run(opened: OpenComparison, purpose: str, trials: list[Trial]) -> list[RunResult]:
    config = opened.config
    name = f"{config.name}: {purpose}"
    return run_trials(name, trials, parent=opened.run_id, retries=config.runtime.retries, jobs=config.jobs)
