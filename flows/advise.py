"""Advice on a mixture: a designed search on one split, its best settings held against those given on another.

`python -m flows.advise CONFIG.json` runs it in this process.
"""

import sys
from pathlib import Path

from prefect import flow

from flows.compare import compare
from flows.local import with_prefect
from flows.trials import run_trials
from mixcpt.config import AdviseConfig
from mixcpt.records.search import Advice
from tasks.advice import begin_search, publish_advice
from tasks.hooks import close_as_failed, close_as_killed, remember_process


@flow(
    name="advise",
    flow_run_name="{config.name}",
    on_running=[remember_process],
    on_failure=[close_as_failed],
    on_crashed=[close_as_failed],
    on_cancellation=[close_as_killed],
)
def advise(config: AdviseConfig) -> Advice:
    """Find share of the domain, alpha and learning rate for a corpus.

    The search asks the selection split alone; what it recommends is then trained with every seed beside the settings
    that were given, and both are asked the report split. What the store has is not trained again.
    """
    search = begin_search(config)
    while drawn := search.draw():
        name = f"{config.name}: trial {len(search.attempts) + 1} of {config.num_trials}"
        retries = config.runtime.retries
        search.learn(run_trials(name, drawn, parent=search.run_id, retries=retries, jobs=config.jobs))
    return publish_advice(search, compare(config.confirmation(search.best.point)))


def main(arguments: list[str]) -> int:
    """Returns the exit code of one search."""
    from mixcpt.report.comparison.advice_page import show_advice

    config = AdviseConfig.model_validate_json(Path(arguments[0]).read_text())
    return with_prefect(config.runtime, lambda: show_advice(advise(config), Path(config.runtime.store)))


if __name__ == "__main__":
    from flows import advise as module  # so that Prefect and pickles know the flow by its importable name

    raise SystemExit(module.main(sys.argv[1:]))
