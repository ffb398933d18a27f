"""The stage `rewrite` for the registry of stages."""

from mixcpt.config.rewrite import RewriteConfig
from mixcpt.rewrite.forms import load_forms
from mixcpt.rewrite.keys import rewrite_key
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker


def job_key(job: Job) -> StageKey:
    """Return the key of the rewritten corpus of a job."""
    config = RewriteConfig.model_validate(job.config)
    return rewrite_key(config, load_forms(config.forms), job.artifact("corpus"), job.model("base"), seed=job.seed)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `rewrite`."""
    from mixcpt.rewrite.pipeline import rewrite

    config = RewriteConfig.model_validate(job.config)
    return rewrite(config, job.artifact("corpus"), job.model("base"), seed=job.seed, store=store, tracker=tracker)
