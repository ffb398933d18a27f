"""Everything that is counted before a run, whatever it will run on."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt.config import AdaptConfig, FullScope, PretrainConfig
from mixcpt.curation.sources import open_sources
from mixcpt.planning.alignment import AlignmentLoad, alignment_load
from mixcpt.planning.questions import TaskLoad, task_loads
from mixcpt.planning.samples import Sample, sample_corpus, sample_sources
from mixcpt.planning.shape import ActivationBytes, ModelShape, activation_bytes, model_shape
from mixcpt.planning.workload import Workload, workload_of_mixture, workload_of_samples
from mixcpt.stages.chain import curation_job, pretraining_jobs
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef


@dataclass(frozen=True)
class Load:
    """What a run reads, and the model that reads it."""

    config: AdaptConfig
    base: ModelRef
    samples: tuple[Sample, ...]
    corpus: ArtifactRef | None
    """Where curation has published it already."""
    corpus_key: str
    """Its fingerprint, published or not."""
    reading: Workload
    alignment: AlignmentLoad | None
    tasks: tuple[TaskLoad, ...]
    shape: ModelShape
    """Of the student of pre-training."""
    plain: ModelShape
    """Of the model as alignment trains it: all of it."""
    activations: ActivationBytes
    """Of a row of pre-training."""
    plain_activations: ActivationBytes
    """Of a row of the same length in alignment."""


@dataclass(frozen=True)
class Adapting:
    """What the jobs of a run follow from."""

    config: AdaptConfig
    base: ModelRef


def load_of(config: AdaptConfig, base: ModelRef, store: ArtifactStore) -> Load:
    """Returns the load of a run: exact where the store has its corpus or mixture, else by samples of the sources.

    Raises:
        MixcptError: If a source or the model cannot be used.
    """
    from mixcpt.stages.worker import lookup

    corpus = lookup(curation_job(config), store)
    if isinstance(corpus, ArtifactRef):
        return load_of_corpus(config, base, corpus, store)
    samples = sample_sources(config.curation, open_sources(config.curation))
    return _load(config, base, samples, None, corpus.fingerprint, workload_of_samples(config, samples, base))


def load_of_corpus(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef, store: ArtifactStore) -> Load:
    """Returns the load of a run whose corpus is published."""
    from mixcpt.stages.worker import lookup

    samples = sample_corpus(corpus)
    mixture = lookup(pretraining_jobs(Adapting(config, base), corpus)[0], store)
    if isinstance(mixture, ArtifactRef):
        reading = workload_of_mixture(config, mixture)
    else:
        reading = workload_of_samples(config, samples, base)
    return _load(config, base, samples, corpus, corpus.fingerprint, reading)


def _load(
    config: AdaptConfig,
    base: ModelRef,
    samples: Sequence[Sample],
    corpus: ArtifactRef | None,
    corpus_key: str,
    reading: Workload,
) -> Load:
    plain = PretrainConfig(scope=FullScope())
    row_tokens = config.mixture.row_tokens
    return Load(
        config,
        base,
        tuple(samples),
        corpus,
        corpus_key,
        reading,
        alignment_load(config, samples, base),
        tuple(task_loads(config.evaluate, samples, base)),
        model_shape(base, config.pretrain),
        model_shape(base, plain),
        activation_bytes(base, config.pretrain, row_tokens),
        activation_bytes(base, plain, row_tokens),
    )
