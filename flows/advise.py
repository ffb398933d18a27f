"""Searches settings of a mixture on one split, and compares the best ones with the original settings on another."""

from prefect import flow

from flows.compare import compare
from flows.trials import run_trials
from mixcpt.config import AdviseConfig
from mixcpt.records.comparison import Advice
from tasks.advice import begin_search, publish_advice
from tasks.checking import check, count_as_checked
from tasks.hooks import HOOKS


@flow(name="advise", flow_run_name="{config.name}", **HOOKS)
def advise(config: AdviseConfig) -> Advice:
    """Recommend the domain share, alpha and learning rate for a corpus.

    The search uses only the selection split. The recommended and the original settings are then trained with every
    seed and compared on the report split. Trainings that are already in the store are not repeated.
    """
    check(config.given, config)
    search = begin_search(config)
    retries = config.runtime.retries
    while drawn := search.draw():
        name = f"{config.name}: trial {len(search.attempts) + 1} of {config.num_trials}"
        search.learn(run_trials(name, drawn, parent=search.run_id, retries=retries, jobs=config.jobs))
    confirmation = config.confirmation(search.best.point)
    count_as_checked(confirmation)
    return publish_advice(search, compare(confirmation))
