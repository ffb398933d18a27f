"""The result of a run: assembled from its artifacts, or found complete in the store."""

from collections.abc import Sequence
from pathlib import Path

from mixcpt.records.run import RunResult, TrackingRef, find_record, load_run
from mixcpt.stages.chain import final_role, run_chain
from mixcpt.stages.jobs import Job
from mixcpt.stages.lookup import split_finished
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation
from tasks.tracking import Place


class _NotStored(Exception):
    """A stage of the run is not in the store."""


def assemble(
    adaptation: Adaptation, refs: dict[str, ArtifactRef], evaluations: dict[str, ArtifactRef], version: str = ""
) -> RunResult:
    """Return the result of a run from its artifacts and evaluations by role."""
    tracking = TrackingRef()
    if adaptation.run_id:
        mlflow = adaptation.tracking
        tracking = TrackingRef(mlflow.place.uri, mlflow.experiment_id, adaptation.run_id, version)
    return RunResult(
        config=adaptation.config,
        base=adaptation.base,
        refs=refs,
        final=final_role(refs),
        evaluations=evaluations,
        tracking=tracking,
    )


def find_stored_run(adaptation: Adaptation) -> RunResult | None:
    """Return the result of this run if the store has every stage and MLflow has its run; each stage is looked up once.

    It imports neither torch nor transformers.
    """

    def find(jobs: Sequence[Job]) -> dict[str, ArtifactRef]:
        results, missing = split_finished(jobs, adaptation.store)
        if missing:
            raise _NotStored
        return results

    try:
        chain = run_chain(adaptation, find)
    except _NotStored:
        return None
    record = find_record(adaptation.store, assemble(adaptation, chain.refs, chain.evaluations))
    result = load_run(record) if record else None
    return result if result and _is_tracked(adaptation, result) else None


def _is_tracked(adaptation: Adaptation, result: RunResult) -> bool:
    uri = Place.of(adaptation.config.runtime).uri
    database = uri.removeprefix("sqlite:///")
    return result.tracking.uri == uri and bool(result.tracking.run_id) and (database == uri or Path(database).is_file())
