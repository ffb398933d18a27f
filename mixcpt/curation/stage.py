"""The stage `curate` for the registry of stages."""

from mixcpt.config import CurationConfig
from mixcpt.curation.sources import curation_key, open_sources
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker


def job_key(job: Job) -> StageKey:
    """Return the key of the corpus of a job; it opens the sources."""
    config = CurationConfig.model_validate(job.config)
    return curation_key(config, open_sources(config), job.seed)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `curate`."""
    from mixcpt.curation.pipeline import curate

    return curate(CurationConfig.model_validate(job.config), seed=job.seed, store=store)
