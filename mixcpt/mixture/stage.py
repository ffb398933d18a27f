"""The stage `mix` for the registry of stages."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from mixcpt.config import Method, MixtureConfig, StreamConfig
from mixcpt.mixture.keys import mixture_key
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker


def job_key(job: Job) -> StageKey:
    """Return the key of the mixture of a job."""
    config, streams = _settings(job)
    return mixture_key(config, streams, job.artifact("corpus"), job.model("base"), seed=job.seed)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `mix`."""
    from mixcpt.mixture.pipeline import mix

    config, streams = _settings(job)
    return mix(config, job.artifact("corpus"), job.model("base"), seed=job.seed, store=store, streams=streams)


def _settings(job: Job) -> tuple[MixtureConfig, Sequence[StreamConfig]]:
    """Return the mixture's settings, and the streams of the method of pre-training."""
    settings = dict(job.config)
    method: Method = TypeAdapter(Method).validate_python(settings.pop("method"))
    return MixtureConfig.model_validate(settings), method.streams()
