"""Counts the tokens, rows and steps of pre-training; exact if the mixture is published, else estimated from samples."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from mixcpt.config import AdaptConfig, Form, StreamConfig
from mixcpt.curation.records import TEXT_NAMES
from mixcpt.mixture.account import MixtureAccount, StreamAccount
from mixcpt.mixture.mined import compose
from mixcpt.mixture.pairs import write_pairs
from mixcpt.mixture.readings import StreamRecipe, apportion, recipes, source_targets
from mixcpt.mixture.tokens import PlainText, TextTokenizer, unify
from mixcpt.planning.samples import Sample
from mixcpt.records.plan import SourceShare
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

_LAYOUT_TOKENS_PER_SECOND = 1.5e6
"""Tokens packed and written per second, measured on one core."""


@dataclass(frozen=True, kw_only=True)
class StreamLoad:
    """Rows and tokens of one stream of a training."""

    rows: int
    student_tokens: int
    """Tokens that the student reads; includes padding if teacher and student read the same."""
    teacher_tokens: int
    """Tokens that the teacher reads, padding included; 0 without a teacher."""
    phase: int
    """Number of the phase in which the training reads the stream."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tokens, rows and steps of pre-training."""

    sources: tuple[SourceShare, ...]
    streams: tuple[StreamLoad, ...]
    """Rows and tokens by stream."""
    steps: int
    row_tokens: int
    cached_tokens: int
    """Tokens of all texts in all forms, each counted once, for which a cached teacher stores predictions."""
    mix_seconds: float
    """Processor time to mix."""

    @property
    def rows(self) -> int:
        return sum(stream.rows for stream in self.streams)

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding included, as the training records them."""
        return self.rows * self.row_tokens

    @property
    def student_tokens(self) -> int:
        return sum(stream.student_tokens for stream in self.streams)

    @property
    def teacher_tokens(self) -> int:
        return sum(stream.teacher_tokens for stream in self.streams)

    @property
    def student_rows_per_row(self) -> float:
        """Ratio of the student's tokens to all tokens; below 1 if the student reads parts of documents."""
        return self.student_tokens / max(self.tokens, 1)


@dataclass(frozen=True, kw_only=True)
class _TokenCount:
    """Tokens of one source in one form."""

    sample: Sample
    sample_tokens: int

    @cached_property
    def unique_tokens(self) -> int:
        """Estimated tokens of the whole source."""
        return round(self.sample_tokens * self.sample.scale)


def workload_of_mixture(config: AdaptConfig, mixture: ArtifactRef) -> Workload:
    """Return the exact workload of a published mixture."""
    account = MixtureAccount.of(mixture)
    settings = config.pretrain.method.streams()
    pairs = zip(settings, account.streams, strict=True)
    streams = tuple(_stored_stream(stream, stored, account.row_tokens) for stream, stored in pairs)
    cached_tokens = {}
    for stored in account.streams:
        cached_tokens.update({(source.name, stored.form): source.unique_tokens for source in stored.sources})
    return Workload(
        sources=tuple(
            SourceShare(
                name=source.name,
                pool=source.pool,
                unique_tokens=source.unique_tokens,
                tokens=source.tokens,
                is_exact=True,
            )
            for source in account.sources
        ),
        streams=streams,
        steps=num_steps(streams, config.pretrain.batch_rows),
        row_tokens=account.row_tokens,
        cached_tokens=sum(cached_tokens.values()),
        mix_seconds=float(mixture.record["seconds"]),
    )


def workload_of_samples(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef) -> Workload:
    """Return the estimated workload: the tokenizer, forms and views of the run are applied to the samples."""
    mixture, streams = config.mixture, config.pretrain.method.streams()
    tokenizer = TextTokenizer(base, parse_special_tokens=mixture.special_tokens == "parse")
    counts: dict[tuple[str, Form], _TokenCount] = {}
    loads: list[StreamLoad] = []
    tokens_read: Counter[str] = Counter()
    started = time.process_time()
    for stream, recipe in zip(streams, recipes(mixture, streams), strict=True):
        stream_samples = [sample for sample in samples if sample.pool in recipe.weights]
        if recipe.view.view == "text":
            sources = _count_texts(config, recipe, stream_samples, tokenizer, counts=counts)
            loads.append(_text_stream(stream, recipe, mixture.row_tokens))
        else:
            load, sources = _count_pairs(config, recipe, stream_samples, tokenizer)
            counts |= {(source.sample.name, "text"): source for source in sources}
            loads.append(load)
        tokens_read.update(_source_targets(recipe, sources))
    sample_tokens = sum(count.sample_tokens for count in counts.values())
    seconds_per_token = (time.process_time() - started) / max(sample_tokens, 1)
    cached_tokens = sum(count.unique_tokens for count in counts.values())
    return Workload(
        sources=_shares(counts, tokens_read),
        streams=tuple(loads),
        steps=num_steps(loads, config.pretrain.batch_rows),
        row_tokens=mixture.row_tokens,
        cached_tokens=cached_tokens,
        mix_seconds=cached_tokens * seconds_per_token + mixture.total_tokens / _LAYOUT_TOKENS_PER_SECOND,
    )


def num_steps(streams: Sequence[StreamLoad], batch_rows: int) -> int:
    """Return the number of optimizer steps; each phase is filled up to whole batches."""
    rows_by_phase: Counter[int] = Counter()
    for stream in streams:
        rows_by_phase[stream.phase] += stream.rows
    return sum(-(-rows // batch_rows) for rows in rows_by_phase.values())


def _stored_stream(stream: StreamConfig, account: StreamAccount, row_tokens: int) -> StreamLoad:
    tokens = account.num_rows * row_tokens
    return StreamLoad(
        rows=account.num_rows,
        student_tokens=tokens if account.student_tokens is None else account.student_tokens,
        teacher_tokens=tokens if stream.kl_weight > 0 else 0,
        phase=account.phase,
    )


def _text_stream(stream: StreamConfig, recipe: StreamRecipe, row_tokens: int) -> StreamLoad:
    rows = -(-recipe.tokens // row_tokens)
    tokens = rows * row_tokens
    teacher_tokens = tokens if stream.kl_weight > 0 else 0
    return StreamLoad(rows=rows, student_tokens=tokens, teacher_tokens=teacher_tokens, phase=recipe.phase)


def _count_texts(
    config: AdaptConfig,
    recipe: StreamRecipe,
    samples: Sequence[Sample],
    tokenizer: TextTokenizer,
    *,
    counts: dict[tuple[str, Form], _TokenCount],
) -> list[_TokenCount]:
    """Add the sources of a text stream to `counts`, each form of a source once, and return their counts."""
    sources = []
    for sample in samples:
        form = recipe.form if sample.pool == "domain" else "text"
        if (sample.name, form) not in counts:
            tokens = _num_tokens(config, sample, form, tokenizer)
            counts[sample.name, form] = _TokenCount(sample=sample, sample_tokens=tokens)
        sources.append(counts[sample.name, form])
    return sources


def _count_pairs(
    config: AdaptConfig, recipe: StreamRecipe, samples: Sequence[Sample], tokenizer: TextTokenizer
) -> tuple[StreamLoad, list[_TokenCount]]:
    """Cut and pack the sample in a temporary folder; return the load of the stream, scaled to all its tokens.

    Raises:
        DataError: If no document of the sample can be cut.
    """
    texts = {sample.name: [record.text for record in sample.records] for sample in samples}
    sample_tokens = sum(len(encoded.ids) for encoded in chain.from_iterable(map(tokenizer.encode, texts.values())))
    with TemporaryDirectory(prefix="mixcpt-plan-") as folder:
        account = write_pairs(
            Path(folder) / "rows.parquet",
            recipe.view,
            texts,
            source_ids={name: number for number, name in enumerate(texts)},
            tokenizer=tokenizer,
            target_tokens=min(recipe.tokens, sample_tokens),
            row_tokens=config.mixture.row_tokens,
            seed=config.seed,
        )
    teacher_tokens = sum(source.teacher_tokens for source in account.sources.values())
    student_tokens = sum(source.student_tokens for source in account.sources.values())
    rows = round(account.num_rows * recipe.tokens / teacher_tokens)
    load = StreamLoad(
        rows=rows,
        student_tokens=round(student_tokens * recipe.tokens / teacher_tokens),
        teacher_tokens=rows * config.mixture.row_tokens,
        phase=recipe.phase,
    )
    unique_tokens = {name: source.unique_tokens for name, source in account.sources.items()}
    return load, [_TokenCount(sample=sample, sample_tokens=unique_tokens[sample.name]) for sample in samples]


def _num_tokens(config: AdaptConfig, sample: Sample, form: Form, tokenizer: TextTokenizer) -> int:
    """Return the number of tokens of a sample in a form."""
    names = TEXT_NAMES[sample.pool]
    records = (dict(zip(names, record.texts, strict=True)) for record in sample.records)
    texts = [unify(record, sample.pool, config.mixture) for record in records]
    separator, seed = config.mixture.separator, config.seed
    texts = [PlainText(compose(text.text, form, separator, seed=seed), text.scored_from) for text in texts]
    return len(tokenizer(texts).tokens)


def _source_targets(recipe: StreamRecipe, sources: Sequence[_TokenCount]) -> dict[str, int]:
    available: dict[str, dict[str, int]] = {}
    for source in sources:
        available.setdefault(source.sample.pool, {})[source.sample.name] = source.unique_tokens
    pool_targets = apportion(recipe.tokens, {str(pool): weight for pool, weight in recipe.weights.items()})
    return source_targets(pool_targets, available)


def _shares(counts: Mapping[tuple[str, Form], _TokenCount], tokens_read: Mapping[str, int]) -> tuple[SourceShare, ...]:
    """Return one share per source; a source in several forms is counted in the first of them."""
    first: dict[str, _TokenCount] = {}
    for (name, _), count in counts.items():
        if name in tokens_read:
            first.setdefault(name, count)
    return tuple(
        SourceShare(
            name=name,
            pool=count.sample.pool,
            unique_tokens=count.unique_tokens,
            tokens=tokens_read[name],
            is_exact=count.sample.is_whole,
        )
        for name, count in first.items()
    )
