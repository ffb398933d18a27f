"""Finds the results of jobs in the store, without importing the libraries of the stages."""

from collections.abc import Sequence

from mixcpt.stages.jobs import Job, Output
from mixcpt.stages.registry import find_stage
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey


def lookup(job: Job, store: ArtifactStore) -> ArtifactRef | StageKey:
    """Return the artifact of a job whose inputs are known, or the key under which it would be published."""
    key = find_stage(job.stage).key_of(job)
    return store.find(key.kind, key.fingerprint) or key


def split_finished(jobs: Sequence[Job], store: ArtifactStore) -> tuple[dict[str, ArtifactRef], list[Job]]:
    """Return the artifacts of finished jobs by name, and the other jobs with all known inputs filled in."""
    results: dict[str, ArtifactRef] = {}
    missing: list[Job] = []
    for job in jobs:
        known = job.resolve(results)
        if any(isinstance(value, Output) for value in known.inputs.values()):
            missing.append(known)
            continue
        result = lookup(known, store)
        if isinstance(result, ArtifactRef):
            results[job.name] = result
        else:
            missing.append(known)
    return results, missing
