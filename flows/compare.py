"""Methods against each other: each tuned alike, every seed, equal effort, one page.

`python -m flows.compare CONFIG.json` runs it in this process.
"""

import sys
from pathlib import Path

from prefect import flow

from flows.local import with_prefect
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
    publish_comparison_page,
    report_trials,
    search_trials,
)
from tasks.hooks import close_as_failed, close_as_killed, remember_process
from tasks.trials import Trial


@flow(
    name="compare",
    flow_run_name="{config.name}",
    on_running=[remember_process],
    on_failure=[close_as_failed],
    on_crashed=[close_as_failed],
    on_cancellation=[close_as_killed],
)
def compare(config: CompareConfig) -> Comparison:
    """Compare methods at equal effort.

    Each contender is tuned with the first seed on the selection split, then trained with every seed at its best value
    and asked the report split, whose questions chose nothing. Trainings that the store has are not done again.
    """
    contest = open_comparison(config)
    searched = search_trials(config)
    found = _run(contest, "search", searched)
    tried = judged(config, searched, found)
    reported = report_trials(config, chosen_values(config, tried), equal_lengths(config, searched, found))
    return publish_comparison_page(contest, tried, reported, _run(contest, "report", reported))


def _run(contest: OpenComparison, purpose: str, given: list[Trial]) -> list[RunResult]:
    config = contest.config
    named = f"{config.name}: {purpose}"
    return run_trials(named, given, parent=contest.run_id, retries=config.runtime.retries, jobs=config.jobs)


def main(arguments: list[str]) -> int:
    """Returns the exit code of one comparison."""
    from mixcpt.report.comparison.page import show

    config = CompareConfig.model_validate_json(Path(arguments[0]).read_text())
    return with_prefect(config.runtime, lambda: show(compare(config), Path(config.runtime.store)))


if __name__ == "__main__":
    from flows import compare as module  # so that Prefect and pickles know the flow by its importable name

    raise SystemExit(module.main(sys.argv[1:]))
