"""The identity of a pre-trained model; importable without torch."""

from mixcpt.config import PretrainConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, StageKey
from mixcpt.store.models import ModelRef

_VERSION = 2


def pretrain_key(
    config: PretrainConfig,
    mixture: ArtifactRef,
    base: ModelRef,
    *,
    seed: int,
    cache: ArtifactRef | None = None,
    probe_digest: str | None = None,
) -> StageKey:
    """Return the key of a pre-trained model; a training without cache or probe has None for them."""
    inputs = {"mixture": mixture.digest, "base": base.digest}
    if cache is not None:
        inputs["cache"] = cache.digest
    if probe_digest is not None:
        inputs["probe"] = probe_digest
    settings = {"stage": "pretrain", "pretrain": config, "seed": seed}
    return StageKey(kind="model", version=_VERSION, settings=settings, inputs=inputs)


def job_key(job: Job) -> StageKey:
    """Return the key of the pre-trained model of a job."""
    return pretrain_key(
        PretrainConfig.model_validate(job.config),
        job.artifact("mixture"),
        job.model("base"),
        seed=job.seed,
        cache=job.artifact("cache") if "cache" in job.inputs else None,
        probe_digest=job.artifact("probe").digest if "probe" in job.inputs else None,
    )
