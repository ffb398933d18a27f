"""Advice on a mixture: a designed search on one split, its best settings held against those given on another."""

from prefect import flow

from flows.compare import compare
from flows.trials import run_trials
from mixcpt.config import AdviseConfig
from mixcpt.records.search import Advice
from tasks.advice import begin_search, publish_advice
from tasks.hooks import HOOKS


@flow(
    name="advise",
    flow_run_name="{config.name}",
    **HOOKS,
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
