"""The result of a run, assembled from its artifacts."""

from mixcpt.records.run import RunResult, TrackingRef
from mixcpt.stages.chain import final_role
from mixcpt.store.artifacts import ArtifactRef
from tasks.adaptation import Adaptation


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
