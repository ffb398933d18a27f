"""Counts everything that a run reads, and the shape of its models; independent of the device."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt.config import AdaptConfig, FullScopeConfig, PretrainConfig
from mixcpt.curation.sources import open_sources
from mixcpt.planning.alignment import AlignmentLoad, alignment_load
from mixcpt.planning.questions import TaskLoad, task_loads
from mixcpt.planning.samples import Sample, sample_corpus, sample_sources
from mixcpt.planning.shape import ActivationBytes, ModelShape, activation_bytes, model_shape
from mixcpt.planning.workload import Workload, workload_of_mixture, workload_of_samples
from mixcpt.stages.chain import curation_job, pretraining_jobs
from mixcpt.stages.lookup import lookup
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef


@dataclass(frozen=True, kw_only=True)
class Load:
    """Tokens, questions and model shapes of a run."""

    config: AdaptConfig
    base: ModelRef
    samples: tuple[Sample, ...]
    corpus: ArtifactRef | None
    """Corpus; None if curation has not published it."""
    corpus_key: str
    """Fingerprint of the corpus, published or not."""
    workload: Workload
    """Tokens of pre-training."""
    alignment: AlignmentLoad | None
    """Tokens of alignment; None if it is skipped."""
    tasks: tuple[TaskLoad, ...]
    """Questions by task."""
    student: ModelShape
    """Shape of the student of pre-training."""
    full_model: ModelShape
    """Shape of the model if all its parameters are trained, as in alignment."""
    student_activations: ActivationBytes
    """Activations of one row in pre-training."""
    full_model_activations: ActivationBytes
    """Activations of one row of the same length in alignment."""


@dataclass(frozen=True)
class Adapting:
    """Settings and base model, from which the jobs of a run follow."""

    config: AdaptConfig
    base: ModelRef


def count_load(config: AdaptConfig, base: ModelRef, store: ArtifactStore) -> Load:
    """Return the load of a run: exact if the store has its corpus or mixture, else estimated from samples.

    Raises:
        MixcptError: If a source or the model cannot be used.
    """
    corpus = lookup(curation_job(config), store)
    if isinstance(corpus, ArtifactRef):
        return count_corpus_load(config, base, corpus, store)
    samples = sample_sources(config.curation, open_sources(config.curation))
    workload = workload_of_samples(config, samples, base)
    return _load(config, base, samples=samples, corpus=None, corpus_key=corpus.fingerprint, workload=workload)


def count_corpus_load(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef, store: ArtifactStore) -> Load:
    """Return the load of a run whose corpus is published."""
    samples = sample_corpus(corpus)
    mixture = lookup(pretraining_jobs(Adapting(config, base), corpus)[0], store)
    if isinstance(mixture, ArtifactRef):
        workload = workload_of_mixture(config, mixture)
    else:
        workload = workload_of_samples(config, samples, base)
    return _load(config, base, samples=samples, corpus=corpus, corpus_key=corpus.fingerprint, workload=workload)


def _load(
    config: AdaptConfig,
    base: ModelRef,
    *,
    samples: Sequence[Sample],
    corpus: ArtifactRef | None,
    corpus_key: str,
    workload: Workload,
) -> Load:
    full_training = PretrainConfig(scope=FullScopeConfig())
    row_tokens = config.mixture.row_tokens
    return Load(
        config=config,
        base=base,
        samples=tuple(samples),
        corpus=corpus,
        corpus_key=corpus_key,
        workload=workload,
        alignment=alignment_load(config, samples, base),
        tasks=tuple(task_loads(config.evaluate, samples, base)),
        student=model_shape(base, config.pretrain),
        full_model=model_shape(base, full_training),
        student_activations=activation_bytes(base, config.pretrain, row_tokens),
        full_model_activations=activation_bytes(base, full_training, row_tokens),
    )
