"""The identity of a mixture, computed without torch and, for most models, without transformers."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from mixcpt.config import Method, MixtureConfig, StreamConfig
from mixcpt.mixture.recipe import recipes
from mixcpt.mixture.tokenizer_digest import tokenizer_digest
from mixcpt.mixture.tokens import require_row_fits
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_VERSION = 2


def mixture_key(
    config: MixtureConfig, streams: Sequence[StreamConfig], corpus: ArtifactRef, base: ModelRef, *, seed: int
) -> StageKey:
    """Return the key of a mixture.

    Only the tokenizer of the base model is part of it, so models with the same tokenizer share a mixture. Only the
    recipes of the streams are part of it, so methods that differ in their loss share a mixture.

    Raises:
        ConfigError: If a row is longer than the model's context. A model with another context may share the key.
        ModelError: If the tokenizer cannot be loaded.
    """
    require_row_fits(config.row_tokens, base)
    return StageKey(
        kind="mixture",
        version=_VERSION,
        settings={
            "mixture": config.model_dump(mode="json", exclude={"weights", "total_tokens"}),
            "streams": [recipe.identity() for recipe in recipes(config, streams)],
            "seed": seed,
        },
        inputs={"corpus": corpus.digest, "tokenizer": tokenizer_digest(base)},
    )


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
