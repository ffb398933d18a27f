"""What a run came to: put together from its artifacts, or found again whole in the store."""

from pathlib import Path

from mixcpt.records.run import RunResult, TrackingRef, find_record, load_run
from mixcpt.stages.chain import EVALUATE, alignment_jobs, curation_job, evaluation_jobs, pretraining_jobs, preview_jobs
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation
from tasks.stage_groups import ask
from tasks.tracking import Place

ROLES = {
    "curate": "corpus",
    "mix": "mixture",
    "cache": "teacher",
    "probe": "probe",
    "pretrain": "pretrained",
    "select": "selection",
    "sft": "sft",
    "dpo": "dpo",
}
"""The role in a run of what each job makes."""


def final_role(refs: dict[str, ArtifactRef]) -> str:
    """Returns the role of the last model that was trained."""
    return next(role for role in ("dpo", "sft", "pretrained") if role in refs)


def assemble(
    adaptation: Adaptation, refs: dict[str, ArtifactRef], evaluations: dict[str, ArtifactRef], version: str = ""
) -> RunResult:
    """Returns the result of a run."""
    tracking = TrackingRef()
    if adaptation.run_id:
        door = adaptation.tracking
        tracking = TrackingRef(door.place.uri, door.experiment_id, adaptation.run_id, version)
    return RunResult(adaptation.config, adaptation.base, refs, final_role(refs), evaluations, tracking)


def find_stored_run(adaptation: Adaptation) -> RunResult | None:
    """Returns the result of this very run where the store has all of it and MLflow knows it; computes nothing."""
    refs: dict[str, ArtifactRef] = {}
    if not _add(refs, adaptation, [curation_job(adaptation.config)]):
        return None
    if not _add(refs, adaptation, pretraining_jobs(adaptation, refs["corpus"])):
        return None
    pretrained = ModelRef.from_artifact(refs["pretrained"], "pretrained")
    if not _add(refs, adaptation, alignment_jobs(adaptation, refs["corpus"], pretrained)):
        return None
    final = refs[final_role(refs)]
    evaluations: dict[str, ArtifactRef] = {}
    asked = evaluation_jobs(adaptation, refs["corpus"], refs["pretrained"], final)
    if not _add(evaluations, adaptation, [*preview_jobs(adaptation, refs["corpus"]), *asked]):
        return None
    record = find_record(adaptation.store, assemble(adaptation, refs, evaluations))
    result = load_run(record) if record else None
    return result if result and _is_tracked(adaptation, result) else None


def _add(refs: dict[str, ArtifactRef], adaptation: Adaptation, jobs: list[Job]) -> bool:
    """Returns whether the store has the results of all jobs, after adding them under their roles."""
    found, missing = ask(adaptation, jobs)
    refs |= {ROLES.get(name, name.removeprefix(EVALUATE)): ref for name, ref in found.items()}
    return not missing


def _is_tracked(adaptation: Adaptation, result: RunResult) -> bool:
    uri = Place.of(adaptation.config.runtime).uri
    database = uri.removeprefix("sqlite:///")
    return result.tracking.uri == uri and bool(result.tracking.run_id) and (database == uri or Path(database).is_file())
