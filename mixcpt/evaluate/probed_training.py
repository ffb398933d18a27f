"""Pre-training with a probe. It is here because training has only the protocol of a probe, not its questions."""

from mixcpt.config import PretrainConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.spool import Tracker


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `pretrain`; with a probe for the retention controller if the job has one."""
    from mixcpt.evaluate.probe import StoredProbe
    from mixcpt.train.pretrain import pretrain

    base = job.model("base")
    return pretrain(
        PretrainConfig.model_validate(job.config),
        job.artifact("mixture"),
        base,
        seed=job.seed,
        store=store,
        tracker=tracker,
        cache=job.artifact("cache") if "cache" in job.inputs else None,
        sharding=job.options.sharding,
        probe=StoredProbe(job.artifact("probe"), base) if "probe" in job.inputs else None,
    )
