"""The identity of a teacher cache; importable without torch."""

from mixcpt.config import CachedTeacherConfig, PretrainConfig
from mixcpt.mixture.account import MixtureAccount
from mixcpt.mixture.tokens import max_input_tokens
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_VERSION = 2
_DEFAULT_WINDOW = 2048


def teacher_key(
    config: CachedTeacherConfig, mixture: ArtifactRef, teacher: ModelRef, *, precision: str, max_tokens: int
) -> StageKey:
    """Return the key of a teacher's cache. It depends on the texts of the mixture, not on their packing or order."""
    window = teacher_window(max_tokens)
    return StageKey(
        kind="teacher",
        version=_VERSION,
        settings={"stage": "cache", "top_k": config.top_k, "precision": precision, "window": window},
        inputs={"tokens": MixtureAccount.of(mixture).tokens_digest, "teacher": teacher.digest},
    )


def teacher_window(max_tokens: int) -> int:
    """Return the tokens that the teacher reads at once; `max_tokens` is the model's limit, 0 if it has none."""
    return max_tokens or _DEFAULT_WINDOW


def job_key(job: Job) -> StageKey:
    """Return the key of the teacher cache of a job."""
    config, base = PretrainConfig.model_validate(job.config), job.model("base")
    precision, max_tokens = config.precision, max_input_tokens(base)
    return teacher_key(_teacher(config), job.artifact("mixture"), base, precision=precision, max_tokens=max_tokens)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `cache`."""
    from mixcpt.distill.teacher_writer import cache_teacher

    config, base = PretrainConfig.model_validate(job.config), job.model("base")
    return cache_teacher(
        _teacher(config),
        job.artifact("mixture"),
        base,
        precision=config.precision,
        max_tokens=max_input_tokens(base),
        store=store,
        tracker=tracker,
    )


def _teacher(config: PretrainConfig) -> CachedTeacherConfig:
    if not isinstance(config.teacher, CachedTeacherConfig):
        raise TypeError(f"the teacher is {config.teacher.kind}, not cached")
    return config.teacher
