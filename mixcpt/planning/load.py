"""Counts everything that a run reads, and the shape of its models; independent of the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mixcpt.align.chat import context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.selection import FORMS, INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.config import (
    AdaptConfig,
    BitsPerByteTask,
    DpoConfig,
    EvaluateConfig,
    FullScopeConfig,
    PretrainConfig,
    SelectionConfig,
    SftConfig,
    SplitConfig,
    Task,
    is_question,
)
from mixcpt.evaluate.asking.tasks import items_in_split
from mixcpt.planning.memory import ActivationBytes, AlignmentStage, ModelShape, activation_bytes, model_shape
from mixcpt.planning.samples import Sample, sample_corpus, sample_sources
from mixcpt.planning.workload import Workload, workload_of_mixture, workload_of_samples
from mixcpt.records.run import Adapting
from mixcpt.stages.chain import curation_job, pretraining_jobs, with_precision
from mixcpt.stages.registry import lookup, split_finished
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_tokenizer

_TOKENISED_ITEMS = 40
"""Number of items per task that are tokenized; the others are assumed to have the same mean length."""
_ANSWER_TOKENS = 24
"""Assumed tokens of an answer that the model writes."""


@dataclass(frozen=True, kw_only=True)
class StageLoad:
    """Number of samples, tokens and steps of SFT or DPO."""

    num_samples: int
    tokens: int
    """Tokens over all epochs."""
    steps: int
    longest_tokens: int
    """Length of the longest answer of the counted samples in tokens."""
    config: SftConfig | DpoConfig
    """Settings of the stage, with the precision of pre-training if they follow it."""
    shape: ModelShape
    """Shape of the model in the scope of the stage."""
    activations: ActivationBytes
    """Activations of one row as long as the mixture's."""


@dataclass(frozen=True, kw_only=True)
class AlignmentLoad:
    """Tokens and steps of alignment."""

    num_candidates: int
    """Number of samples that selection scores."""
    candidate_tokens: int
    """Tokens that the model reads to score them, in all forms that the strategy compares."""
    stages: Mapping[AlignmentStage, StageLoad]
    """Loads of SFT and DPO, without skipped stages."""
    selection: SelectionConfig
    """Settings of the selection, with the precision of pre-training if they follow it."""

    @property
    def longest_tokens(self) -> int:
        """Length of the longest answer of the counted samples in tokens."""
        return max((stage.longest_tokens for stage in self.stages.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class _UsableSamples:
    """Samples of a pool that can be trained on."""

    available: int = 0
    """Number of samples in the whole pool."""
    first_tokens: float = 0.0
    """Mean tokens of a sample with its first answer."""
    all_tokens: float = 0.0
    """Mean tokens of a sample with all its answers."""
    longest_tokens: int = 0
    """Length of the longest answer in tokens."""


@dataclass(frozen=True, kw_only=True)
class TaskLoad:
    """Number of questions and tokens of one task."""

    name: str
    items: int
    tokens: int
    """Tokens that a model reads for all questions."""
    written_tokens: int
    """Tokens that a model writes per question; 0 if it only compares answers."""
    is_domain_question: bool
    """Whether the open-book evaluation includes the task."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Tokens, questions and model shapes of a run."""

    config: AdaptConfig
    base: ModelRef
    samples: tuple[Sample, ...]
    corpus: ArtifactRef | StageKey
    """Corpus, or its key if curation has not published it."""
    workload: Workload
    """Tokens of pre-training."""
    alignment: AlignmentLoad | None
    """Tokens of alignment; None if it is skipped."""
    tasks: tuple[TaskLoad, ...]
    """Questions by task."""
    student: ModelShape
    """Shape of the student of pre-training."""
    full_model: ModelShape
    """Shape of the model if all its parameters are trained."""
    student_activations: ActivationBytes
    """Activations of one row in pre-training."""


def count_load(config: AdaptConfig, base: ModelRef, store: ArtifactStore, *, corpus: ArtifactRef | None = None) -> Load:
    """Return the load of a run: exact if the store has its corpus or mixture, else estimated from samples.

    `corpus` is the published corpus of the run; None to look it up in the store.

    Raises:
        MixcptError: If a source or the model cannot be used.
    """
    corpus_or_key = corpus or lookup(curation_job(config), store)
    mixture: ArtifactRef | None = None
    if isinstance(corpus_or_key, ArtifactRef):
        samples = sample_corpus(corpus_or_key)
        jobs = [
            job for job in pretraining_jobs(Adapting(config, base), corpus_or_key) if job.name in ("rewrite", "mix")
        ]
        mixture = split_finished(jobs, store)[0].get("mix")
    else:
        samples = sample_sources(config.curation)
    workload = workload_of_mixture(config, mixture) if mixture else workload_of_samples(config, samples, base)
    tokenizer: Any = load_tokenizer(base)
    full_training = PretrainConfig(scope=FullScopeConfig())
    row_tokens = config.mixture.row_tokens
    return Load(
        config=config,
        base=base,
        samples=tuple(samples),
        corpus=corpus_or_key,
        workload=workload,
        alignment=_alignment_load(config, samples, base),
        tasks=tuple(_task_load(task, config.evaluate, samples, tokenizer) for task in config.evaluate.tasks),
        student=model_shape(base, config.pretrain),
        full_model=model_shape(base, full_training),
        student_activations=activation_bytes(base, config.pretrain, row_tokens),
    )


def _alignment_load(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef) -> AlignmentLoad | None:
    """Return the load of alignment; None if the settings skip it."""
    align, selection = config.align, config.align.selection
    if not (selection.num_instructions or selection.num_preferences):
        return None
    num_candidates = tokens_per_form = 0
    stages: dict[AlignmentStage, StageLoad] = {}
    pools: list[tuple[AlignmentStage, SftConfig | DpoConfig, Pool, int]] = [
        ("sft", align.sft, INSTRUCTIONS, selection.num_instructions),
        ("dpo", align.dpo, PREFERENCES, selection.num_preferences),
    ]
    for name, stage, pool, max_samples in pools:
        usable = _usable(config, samples, base, pool) if max_samples else _UsableSamples()
        num_drawn = min(selection.num_candidates, usable.available)
        num_candidates += num_drawn
        tokens_per_form += round(num_drawn * usable.first_tokens)
        if num_samples := min(max_samples, num_drawn):
            training = _like_pretraining(with_precision(stage, config.pretrain))
            stages[name] = StageLoad(
                num_samples=num_samples,
                tokens=round(num_samples * usable.all_tokens * stage.epochs),
                steps=-(-num_samples // stage.batch_size) * stage.epochs,
                longest_tokens=usable.longest_tokens,
                config=with_precision(stage, config.pretrain),
                shape=model_shape(base, training),
                activations=activation_bytes(base, training, config.mixture.row_tokens),
            )
    candidate_tokens = tokens_per_form * len(FORMS[selection.strategy])
    return AlignmentLoad(
        num_candidates=num_candidates,
        candidate_tokens=candidate_tokens,
        stages=stages,
        selection=with_precision(selection, config.pretrain),
    )


def _like_pretraining(config: SftConfig | DpoConfig) -> PretrainConfig:
    """Return the settings of a pre-training with the same scope, precision and recomputation."""
    return PretrainConfig(
        scope=config.scope,
        precision="bf16" if config.precision == "bf16" else "fp32",
        gradient_checkpointing=config.gradient_checkpointing,
    )


def _usable(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef, pool: Pool) -> _UsableSamples:
    tokenizer = load_chat_tokenizer(base, config.base.chat_template)
    max_tokens = context_tokens(base, config.align.selection.max_tokens)
    pool_samples = [sample for sample in samples if sample.pool == pool.name]
    records = list(chain.from_iterable(sample.records for sample in pool_samples))
    lengths: list[list[int]] = []
    for record in records:
        prompt, *answers = record.texts
        chats = [encode_chat(tokenizer, prompt, answer) for answer in answers]
        if not unusable(answers, chats, max_tokens):
            lengths.append([chat.num_tokens for chat in chats])
    if not lengths:
        return _UsableSamples()
    usable_fraction = len(lengths) / len(records)
    return _UsableSamples(
        available=round(usable_fraction * sum(sample.num_records for sample in pool_samples)),
        first_tokens=sum(answer_lengths[0] for answer_lengths in lengths) / len(lengths),
        all_tokens=sum(map(sum, lengths)) / len(lengths),
        longest_tokens=max(map(max, lengths)),
    )


def _task_load(task: Task, config: EvaluateConfig, samples: Sequence[Sample], tokenizer: Any) -> TaskLoad:
    """Return the load of a task; number and lengths of held-out documents are estimated from the samples."""
    if isinstance(task, BitsPerByteTask) and task.heldout_pool != "none":
        pool = [sample for sample in samples if sample.pool == task.heldout_pool and task.source in ("", sample.name)]
        num_items = round(sum(sample.num_heldout for sample in pool) * _split_fraction(config.split, config.splits))
        records = chain.from_iterable(sample.records[:_TOKENISED_ITEMS] for sample in pool)
        texts = [record.text for record in records]
        num_choices = 1
    else:
        items = items_in_split(task, config)
        num_items, num_choices = len(items), max(1, len(items[0].choices) if items else 1)
        texts = [item.prompt + item.gold for item in items[:_TOKENISED_ITEMS]]
    num_items = min(num_items, task.limit or num_items)
    mean_tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts) / max(len(texts), 1)
    return TaskLoad(
        name=task.name,
        items=num_items,
        tokens=round(num_items * num_choices * mean_tokens),
        written_tokens=_ANSWER_TOKENS if task.kind == "closed_world" else 0,
        is_domain_question=task.group == "domain" and is_question(task),
    )


def _split_fraction(split: str, splits: SplitConfig) -> float:
    fractions = {"probe": splits.probe_fraction, "selection": splits.selection_fraction}
    fractions["report"] = 1 - sum(fractions.values())
    return fractions.get(split, 1.0)
