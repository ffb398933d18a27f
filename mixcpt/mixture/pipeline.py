"""The mixture from end to end: unify, tokenize, plan, pack, lay out, publish; one file of rows for each stream."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixcpt.config import MixtureConfig, StreamConfig
from mixcpt.mixture.accounting import combine, paired_account, text_account
from mixcpt.mixture.packing import Packing, pack, spread_rows
from mixcpt.mixture.readings import Readings, apportion, plan_readings, source_targets
from mixcpt.mixture.recipe import StreamRecipe, recipes
from mixcpt.mixture.rows import IGNORE_INDEX, DocumentTokens, RowWriter, lay_out
from mixcpt.mixture.stage import mixture_key
from mixcpt.mixture.tables import Table, Tables, tokenize_tables
from mixcpt.mixture.tokens import TextTokenizer
from mixcpt.mixture.views import write_pairs
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef

_log = logging.getLogger("mixcpt.mixture")


def mix(
    config: MixtureConfig,
    corpus: ArtifactRef,
    base: ModelRef,
    *,
    seed: int,
    store: ArtifactStore,
    streams: Sequence[StreamConfig] = (StreamConfig(),),
) -> ArtifactRef:
    """Returns the packed rows that each stream reads, pools weighted exactly by tokens, and the account of each.

    Of the base model its tokenizer alone decides the identity, so a base that shares it shares the mixture; of the
    streams what they read, so methods that differ in their loss share it too.

    Raises:
        ConfigError: If a row is longer than the model can read.
        DataError: If a pool with a weight has no records, or a view fits none of the documents.
        ModelError: If the tokenizer is not a fast one.
    """
    key = mixture_key(config, streams, corpus, base, seed=seed)
    lineage = {"corpus": corpus.to_json(), "base": base.to_json()}

    def build(folder: Path) -> Mapping[str, Any]:
        tokenizer = TextTokenizer(base, parse_special_tokens=config.special_tokens == "parse")
        return _build(folder, config, recipes(config, streams), corpus, tokenizer, seed)

    return store.produce(key, build, lineage=lineage)


def _build(
    folder: Path,
    config: MixtureConfig,
    read: Sequence[StreamRecipe],
    corpus: ArtifactRef,
    tokenizer: TextTokenizer,
    seed: int,
) -> Mapping[str, Any]:
    tables = tokenize_tables(config, read, corpus, tokenizer, seed)
    tables.write(folder / "tokens.parquet")
    accounts = []
    for index, recipe in enumerate(read):
        if recipe.view.view == "text":
            accounts.append(_write_texts(folder / f"rows-{index}.parquet", config, recipe, tables, tokenizer, seed))
        else:
            pairs = write_pairs(
                folder / f"rows-{index}.parquet",
                recipe.view,
                tables.texts,
                {name: tables.source_names.index(name) for name in tables.texts},
                tokenizer,
                target_tokens=recipe.tokens,
                row_tokens=config.row_tokens,
                seed=seed,
            )
            accounts.append(paired_account(pairs, tables, config.row_tokens))
        accounts[-1] |= {
            "file": f"rows-{index}.parquet",
            "view": recipe.view.view,
            "form": recipe.form,
            "phase": recipe.phase,
        }
    accounting = combine(accounts, config.row_tokens) | {"tokens_digest": tables.digest}
    (folder / "accounting.json").write_text(json.dumps(accounting, indent=2), encoding="utf-8")
    return accounting


def _write_texts(
    path: Path, config: MixtureConfig, recipe: StreamRecipe, tables: Tables, tokenizer: TextTokenizer, seed: int
) -> dict[str, Any]:
    """Writes the rows of a stream whose teacher and student read the same; returns their account."""
    pool_targets = apportion(recipe.tokens, {str(pool): weight for pool, weight in recipe.weights.items()})
    read = tables.of(recipe)
    readings = _plan(read, pool_targets, seed)
    packing = _pack(readings, len(read), config.row_tokens, seed)
    _log.info("packed %d readings into %d rows", len(readings.length), packing.num_rows)
    scored = 0
    with RowWriter(path, config.row_tokens) as writer:
        for rows in lay_out(packing, _documents(tables, read, readings), config.row_tokens, tokenizer.padding_id):
            writer.write(rows)
            scored += int((rows.labels != IGNORE_INDEX).sum())
    return text_account(read, readings, packing, pool_targets, config.row_tokens, scored)


def _plan(read: Sequence[Table], pool_targets: Mapping[str, int], seed: int) -> Readings:
    available: dict[str, dict[str, int]] = {}
    for table in read:
        available.setdefault(table.tokenized.pool, {})[table.tokenized.name] = table.tokenized.num_tokens
    targets = source_targets(pool_targets, available)
    names = [table.tokenized.name for table in read]
    lengths = [table.tokenized.texts.lengths for table in read]
    return plan_readings(names, lengths, [targets[name] for name in names], seed)


def _pack(readings: Readings, num_sources: int, row_tokens: int, seed: int) -> Packing:
    packing = pack(readings.length, row_tokens)
    shares = np.zeros((packing.num_rows, num_sources), np.int64)
    np.add.at(shares, (packing.row, readings.source[packing.document]), packing.length)
    return packing.reordered(spread_rows(shares, seed))


def _documents(tables: Tables, read: Sequence[Table], readings: Readings) -> DocumentTokens:
    """Returns the tokens of all tables, with the place of each reading's document in them."""
    starts = np.cumsum(tables.lengths) - tables.lengths
    first_document = np.array([table.first_document for table in read])
    source_ids = np.array([table.source_id for table in read])
    return DocumentTokens(
        tokens=tables.tokens,
        scored=tables.scored,
        start=starts[first_document[readings.source] + readings.document],
        source=source_ids[readings.source],
    )
