"""What a training will read: tokens of each source and stream, rows, steps; exact where the mixture is there."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mixcpt.config import AdaptConfig, Form, StreamConfig
from mixcpt.curation.records import TEXT_NAMES, Record
from mixcpt.mixture.mined import compose
from mixcpt.mixture.readings import apportion, source_targets
from mixcpt.mixture.recipe import StreamRecipe, recipes
from mixcpt.mixture.tokens import TextTokenizer
from mixcpt.mixture.unify import PlainText, unify
from mixcpt.mixture.views import write_pairs
from mixcpt.planning.samples import Sample
from mixcpt.records.plan import SourceShare
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef

_LAYOUT_TOKENS_PER_SECOND = 1.5e6
"""Tokens packed, laid out and written a second, as measured on one core."""


@dataclass(frozen=True)
class StreamLoad:
    """One stream of a training."""

    rows: int
    student_tokens: int
    """Padding included where teacher and student read the same; its parts alone where they do not."""
    teacher_tokens: int
    """0 where no teacher is followed."""
    phase: int
    is_pair: bool


@dataclass(frozen=True)
class Workload:
    """What pre-training reads."""

    sources: tuple[SourceShare, ...]
    streams: tuple[StreamLoad, ...]
    steps: int
    row_tokens: int
    cached_tokens: int
    """Of all texts once, in every form that is read: what a cached teacher keeps."""
    mix_seconds: float
    """Of a processor."""

    @property
    def rows(self) -> int:
        return sum(stream.rows for stream in self.streams)

    @property
    def tokens(self) -> int:
        """As the record of the training counts them, padding included."""
        return self.rows * self.row_tokens

    @property
    def student_tokens(self) -> int:
        return sum(stream.student_tokens for stream in self.streams)

    @property
    def teacher_tokens(self) -> int:
        return sum(stream.teacher_tokens for stream in self.streams)

    @property
    def student_rows_per_row(self) -> float:
        """Rows that the student reads for each of the mixture: fewer where it is given parts of documents."""
        return self.student_tokens / max(self.tokens, 1)


@dataclass(frozen=True)
class _Counted:
    """One source in one form."""

    sample: Sample
    sample_tokens: int
    unique_tokens: int
    """Of all of the source, which is more than the sample."""


def workload_of_mixture(config: AdaptConfig, mixture: ArtifactRef) -> Workload:
    """Returns what a mixture that is in the store holds, exactly."""
    account = json.loads(mixture.file("accounting.json").read_text())
    streams = tuple(
        _stored_stream(stream, entry, account["row_tokens"])
        for stream, entry in zip(config.pretrain.method.streams(), account["streams"], strict=True)
    )
    sources = tuple(
        SourceShare(entry["name"], entry["pool"], entry["unique_tokens"], entry["tokens"], True)
        for entry in account["sources"]
    )
    read = ((entry["name"], stream["form"], entry) for stream in account["streams"] for entry in stream["sources"])
    cached = sum({(name, form): entry["unique_tokens"] for name, form, entry in read}.values())
    seconds = float(mixture.record["seconds"])
    steps = num_steps(streams, config.pretrain.batch_rows)
    return Workload(sources, streams, steps, account["row_tokens"], cached, seconds)


def workload_of_samples(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef) -> Workload:
    """Returns what the training will read, by the real tokenizer, forms and views on a sample of each source."""
    mixture, methods = config.mixture, config.pretrain.method.streams()
    tokenizer = TextTokenizer(base, parse_special_tokens=mixture.special_tokens == "parse")
    counts: dict[tuple[str, Form], _Counted] = {}
    streams: list[StreamLoad] = []
    read: Counter[str] = Counter()
    started = time.process_time()
    for stream, recipe in zip(methods, recipes(mixture, methods), strict=True):
        of_pools = [sample for sample in samples if sample.pool in recipe.weights]
        if recipe.view.view == "text":
            shares = _texts(config, recipe, of_pools, tokenizer, counts)
            streams.append(_text_stream(stream, recipe, mixture.row_tokens))
        else:
            load, shares = _pairs(config, recipe, of_pools, tokenizer)
            counts |= {(share.sample.name, "text"): share for share in shares}
            streams.append(load)
        read.update(_targets(recipe, shares))
    per_token = (time.process_time() - started) / max(sum(of.sample_tokens for of in counts.values()), 1)
    cached = sum(of.unique_tokens for of in counts.values())
    return Workload(
        _shares(counts, read),
        tuple(streams),
        num_steps(streams, config.pretrain.batch_rows),
        mixture.row_tokens,
        cached,
        cached * per_token + mixture.total_tokens / _LAYOUT_TOKENS_PER_SECOND,
    )


def num_steps(streams: Sequence[StreamLoad], batch_rows: int) -> int:
    """Returns the optimiser steps: each phase is filled up to whole batches."""
    phases: dict[int, int] = {}
    for stream in streams:
        phases[stream.phase] = phases.get(stream.phase, 0) + stream.rows
    return sum(-(-rows // batch_rows) for rows in phases.values())


def _stored_stream(stream: StreamConfig, entry: Mapping[str, Any], row_tokens: int) -> StreamLoad:
    tokens = entry["num_rows"] * row_tokens
    student = int(entry.get("student_tokens", tokens))
    teacher = tokens if stream.kl_weight > 0 else 0
    return StreamLoad(entry["num_rows"], student, teacher, entry["phase"], entry["view"] != "text")


def _text_stream(stream: StreamConfig, recipe: StreamRecipe, row_tokens: int) -> StreamLoad:
    rows = -(-recipe.tokens // row_tokens)
    tokens = rows * row_tokens
    return StreamLoad(rows, tokens, tokens if stream.kl_weight > 0 else 0, recipe.phase, False)


def _texts(
    config: AdaptConfig,
    recipe: StreamRecipe,
    samples: Sequence[Sample],
    tokenizer: TextTokenizer,
    counts: dict[tuple[str, Form], _Counted],
) -> list[_Counted]:
    """Returns the sources of a stream of texts; each form of one is tokenised once and noted in `counts`."""
    shares = []
    for sample in samples:
        form = recipe.form if sample.pool == "domain" else "text"
        if (sample.name, form) not in counts:
            tokens = _count(config, sample, form, tokenizer)
            counts[sample.name, form] = _Counted(sample, tokens, round(tokens * sample.scale))
        shares.append(counts[sample.name, form])
    return shares


def _pairs(
    config: AdaptConfig, recipe: StreamRecipe, samples: Sequence[Sample], tokenizer: TextTokenizer
) -> tuple[StreamLoad, list[_Counted]]:
    """Returns the load of a stream of pairs, as cutting and packing the sample makes it, scaled to all of its tokens.

    Raises:
        DataError: If no document of the sample can be cut.
    """
    texts = {sample.name: [record.text for record in sample.records] for sample in samples}
    one_pass = sum(len(encoded.ids) for of in texts.values() for encoded in tokenizer.encode(of))
    with TemporaryDirectory(prefix="mixcpt-plan-") as folder:
        account = write_pairs(
            Path(folder) / "rows.parquet",
            recipe.view,
            texts,
            {name: number for number, name in enumerate(texts)},
            tokenizer,
            target_tokens=min(recipe.tokens, one_pass),
            row_tokens=config.mixture.row_tokens,
            seed=config.seed,
        )
    teacher = sum(of.teacher_tokens for of in account.sources.values())
    student = sum(of.student_tokens for of in account.sources.values())
    rows = round(account.num_rows * recipe.tokens / teacher)
    load = StreamLoad(
        rows,
        round(student * recipe.tokens / teacher),
        rows * config.mixture.row_tokens,
        recipe.phase,
        True,
    )
    unique = {name: of.unique_tokens for name, of in account.sources.items()}
    return load, [_Counted(each, unique[each.name], round(unique[each.name] * each.scale)) for each in samples]


def _count(config: AdaptConfig, sample: Sample, form: Form, tokenizer: TextTokenizer) -> int:
    """Returns the tokens of a sample in a form."""
    texts = [unify(_fields(record), sample.pool, config.mixture) for record in sample.records]
    if form != "text":
        separator, seed = config.mixture.separator, config.seed
        texts = [PlainText(compose(each.text, form, separator, seed=seed)[0], each.scored_from) for each in texts]
    return len(tokenizer(texts).tokens)


def _fields(record: Record) -> dict[str, str]:
    return dict(zip(TEXT_NAMES[record.pool], record.texts, strict=True))


def _targets(recipe: StreamRecipe, shares: Sequence[_Counted]) -> dict[str, int]:
    available: dict[str, dict[str, int]] = {}
    for share in shares:
        available.setdefault(share.sample.pool, {})[share.sample.name] = share.unique_tokens
    pools = apportion(recipe.tokens, {str(pool): weight for pool, weight in recipe.weights.items()})
    return source_targets(pools, available)


def _shares(counts: Mapping[tuple[str, Form], _Counted], read: Mapping[str, int]) -> tuple[SourceShare, ...]:
    """Returns one share a source; where it is read in several forms, its first one says what is unique."""
    first: dict[str, _Counted] = {}
    for (name, _), counted in counts.items():
        first.setdefault(name, counted)
    return tuple(
        SourceShare(name, of.sample.pool, of.unique_tokens, read[name], of.sample.is_whole)
        for name, of in first.items()
        if name in read
    )
