"""The stage `cache` for the registry of stages."""

from typing import Any

from mixcpt.config import CachedTeacherConfig, PretrainConfig
from mixcpt.distill.keys import teacher_key
from mixcpt.mixture.tokens import max_input_tokens
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker


def job_key(job: Job) -> StageKey:
    """Return the key of the teacher cache of a job."""
    return teacher_key(**_arguments(job))


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `cache`."""
    from mixcpt.distill.teacher_writer import cache_teacher

    return cache_teacher(**_arguments(job), store=store, tracker=tracker)


def _arguments(job: Job) -> dict[str, Any]:
    """Return the arguments that determine the cache of a job."""
    config, base = PretrainConfig.model_validate(job.config), job.model("base")
    if not isinstance(config.teacher, CachedTeacherConfig):
        raise TypeError(f"the teacher is {config.teacher.kind}, not cached")
    return {
        "config": config.teacher,
        "mixture": job.artifact("mixture"),
        "teacher": base,
        "precision": config.precision,
        "max_tokens": max_input_tokens(base),
    }
