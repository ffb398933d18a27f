"""The short form of the main flow: a model and documents of the user's own, and a preset for all other settings."""

from prefect import flow

from flows.adapt import run_either
from mixcpt.config import QuickRun
from mixcpt.records.run import RunResult
from tasks.hooks import HOOKS
from tasks.own_run import settings_of


@flow(name="adapt", flow_run_name="{config.name}", **HOOKS)
def quick(config: QuickRun) -> RunResult:
    """Teach a model your documents without losing its prior knowledge.

    The settings follow from the form and its preset; they are an artifact of the run, as a file for `mixcpt run`. They
    are checked before any work starts.
    """
    return run_either(settings_of(config))
