"""Pre-training with a probe: training knows a probe as a protocol, and the questions of one belong to evaluation."""

from mixcpt.config import PretrainConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.spool import Tracker


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `pretrain`; the retention controller asks the probe, if there is one."""
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
