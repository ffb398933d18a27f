"""The mixture from end to end: unify, tokenize, plan, pack, lay out, publish."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mixcpt.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.config import MixtureConfig, Pool
from mixcpt.mixture.accounting import account
from mixcpt.mixture.packing import Packing, pack, spread_rows
from mixcpt.mixture.plan import Readings, apportion, plan_readings, source_targets
from mixcpt.mixture.rows import IGNORE_INDEX, DocumentTokens, RowWriter, lay_out
from mixcpt.mixture.tokens import TextTokenizer, TokenizedSource, require_row_fits
from mixcpt.mixture.unify import unify
from mixcpt.models import ModelRef

_VERSION = 1
_TABLES: dict[Pool, str] = {
    "domain": "documents.parquet",
    "general": "documents.parquet",
    "instructions": "instructions.parquet",
    "preferences": "preferences.parquet",
}
_log = logging.getLogger("mixcpt.mixture")


def mix(config: MixtureConfig, corpus: ArtifactRef, base: ModelRef, *, seed: int, store: ArtifactStore) -> ArtifactRef:
    """Returns the packed rows that the model reads, pools weighted exactly by tokens, and the account of every source.

    Of the base model its tokenizer alone decides the identity, so a base that shares it shares the mixture.

    Raises:
        ConfigError: If a row is longer than the model can read.
        DataError: If a pool with a weight has no records.
        ModelError: If the tokenizer is not a fast one.
    """
    require_row_fits(config.row_tokens, base)
    tokenizer = TextTokenizer(base, parse_special_tokens=config.special_tokens == "parse")
    key = StageKey(
        kind="mixture",
        version=_VERSION,
        settings={"mixture": config, "seed": seed},
        inputs={"corpus": corpus.digest, "tokenizer": tokenizer.digest},
    )
    lineage = {"corpus": corpus.to_json(), "base": base.to_json()}
    return store.produce(key, lambda folder: _build(folder, config, corpus, tokenizer, seed), lineage=lineage)


def _build(
    folder: Path, config: MixtureConfig, corpus: ArtifactRef, tokenizer: TextTokenizer, seed: int
) -> Mapping[str, Any]:
    weights = {pool: weight for pool, weight in config.weights.model_dump().items() if weight > 0}
    pool_targets = apportion(config.total_tokens, weights)
    sources = [
        source for pool in _TABLES if pool in weights for source in _tokenize_pool(pool, config, corpus, tokenizer)
    ]
    readings = _plan(sources, pool_targets, seed)
    packing = _pack(readings, len(sources), config.row_tokens, seed)
    _log.info("packed %d readings into %d rows", len(readings.length), packing.num_rows)
    scored = _write_rows(folder, packing, _join(sources, readings), config.row_tokens, tokenizer.padding_id)
    accounting = account(sources, readings, packing, pool_targets, config.row_tokens, scored)
    (folder / "accounting.json").write_text(json.dumps(accounting, indent=2), encoding="utf-8")
    return accounting


def _tokenize_pool(
    pool: Pool, config: MixtureConfig, corpus: ArtifactRef, tokenizer: TextTokenizer
) -> list[TokenizedSource]:
    """Returns the sources of a pool in the order in which the corpus has them."""
    by_source: dict[str, list[dict[str, str]]] = {}
    for record in pq.read_table(corpus.file(_TABLES[pool])).to_pylist():
        if record.get("pool", pool) == pool:
            by_source.setdefault(record["source"], []).append(record)
    sources = []
    for name, records in by_source.items():
        texts = tokenizer([unify(record, pool, config) for record in records])
        sources.append(TokenizedSource(name, pool, texts))
        _log.info("%s: %d texts, %d tokens", name, len(records), sources[-1].num_tokens)
    return sources


def _plan(sources: Sequence[TokenizedSource], pool_targets: Mapping[str, int], seed: int) -> Readings:
    available: dict[str, dict[str, int]] = {}
    for source in sources:
        available.setdefault(source.pool, {})[source.name] = source.num_tokens
    targets = source_targets(pool_targets, available)
    names = [source.name for source in sources]
    return plan_readings(names, [source.texts.lengths for source in sources], [targets[name] for name in names], seed)


def _pack(readings: Readings, num_sources: int, row_tokens: int, seed: int) -> Packing:
    packing = pack(readings.length, row_tokens)
    shares = np.zeros((packing.num_rows, num_sources), np.int64)
    np.add.at(shares, (packing.row, readings.source[packing.document]), packing.length)
    return packing.reordered(spread_rows(shares, seed))


def _join(sources: Sequence[TokenizedSource], readings: Readings) -> DocumentTokens:
    """Returns all tokens in one array, with the place of each reading's document in it."""
    lengths = np.concatenate([source.texts.lengths for source in sources])
    starts = np.cumsum(lengths) - lengths
    counts = np.array([len(source.texts.lengths) for source in sources])
    first_document = np.cumsum(counts) - counts
    return DocumentTokens(
        tokens=np.concatenate([source.texts.tokens for source in sources]),
        scored=np.concatenate([source.texts.scored for source in sources]),
        start=starts[first_document[readings.source] + readings.document],
        source=readings.source,
    )


def _write_rows(folder: Path, packing: Packing, documents: DocumentTokens, row_tokens: int, padding_id: int) -> int:
    """Returns the number of scored tokens."""
    scored = 0
    with RowWriter(folder / "rows.parquet", row_tokens) as writer:
        for rows in lay_out(packing, documents, row_tokens, padding_id):
            writer.write(rows)
            scored += int((rows.labels != IGNORE_INDEX).sum())
    return scored
