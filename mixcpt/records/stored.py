"""Finds a run whose stages are all in the store; imports neither torch nor transformers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixcpt.config import AdaptConfig, RuntimeConfig
from mixcpt.records.run import RunResult, find_record, has_record_of, load_run
from mixcpt.stages.chain import final_role, run_chain
from mixcpt.stages.jobs import Job
from mixcpt.stages.lookup import split_finished
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the address of an MLflow server."""


@dataclass(frozen=True)
class _Adapting:
    config: AdaptConfig
    base: ModelRef


class _NotStored(Exception):
    """A stage of the run is not in the store."""


def tracking_uri(runtime: RuntimeConfig) -> str:
    """Return the address of MLflow: `MLFLOW_TRACKING_URI` if it is set, else a database in the artifact store."""
    store = Path(runtime.store).expanduser().resolve()
    return os.environ.get(TRACKING_URI, "") or f"sqlite:///{store / 'mlflow.db'}"


def find_stored_run(config: AdaptConfig, base: ModelRef | None = None) -> RunResult | None:
    """Return the recorded run of these settings if the store has all its stages and MLflow has it.

    Each stage is looked up once. `base` is the base model, if it is already resolved.

    Raises:
        MixcptError: If the base model or a source cannot be read.
    """
    store = ArtifactStore(config.runtime.store)
    if not has_record_of(store, config):  # no need to read the sources
        return None

    def find(jobs: Sequence[Job]) -> dict[str, ArtifactRef]:
        results, missing = split_finished(jobs, store)
        if missing:
            raise _NotStored
        return results

    adapting = _Adapting(config, base or resolve_model(config.base))
    try:
        chain = run_chain(adapting, find)
    except _NotStored:
        return None
    result = RunResult(
        config=config,
        base=adapting.base,
        refs=chain.refs,
        final=final_role(chain.refs),
        evaluations=chain.evaluations,
    )
    record = find_record(store, result)
    run = load_run(record) if record else None
    return run if run and _is_tracked(run, config.runtime) else None


def _is_tracked(run: RunResult, runtime: RuntimeConfig) -> bool:
    uri = tracking_uri(runtime)
    database = uri.removeprefix("sqlite:///")
    has_database = database == uri or Path(database).is_file()
    return run.tracking.uri == uri and bool(run.tracking.run_id) and has_database
