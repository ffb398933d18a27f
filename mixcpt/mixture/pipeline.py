"""The mixture from end to end: unify, tokenise, order, pack, lay out, publish; one file of rows per stream."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixcpt.config import MixtureConfig, StreamConfig
from mixcpt.mixture.accounting import combine, paired_account, text_account
from mixcpt.mixture.keys import mixture_key
from mixcpt.mixture.packing import Packing, pack, spread_rows
from mixcpt.mixture.readings import Readings, apportion, order_readings, source_targets
from mixcpt.mixture.recipe import StreamRecipe, recipes
from mixcpt.mixture.rows import IGNORE_INDEX, DocumentTokens, RowWriter, lay_out
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
    """Produce the packed rows of every stream, with exact token weights of the pools, and return their reference.

    Raises:
        ConfigError: If a row is longer than the context of the model.
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
    recipes: Sequence[StreamRecipe],
    corpus: ArtifactRef,
    tokenizer: TextTokenizer,
    seed: int,
) -> Mapping[str, Any]:
    """Write the files of the mixture and return its account."""
    tables = tokenize_tables(config, recipes, corpus, tokenizer, seed)
    tables.write(folder / "tokens.parquet")
    accounts = []
    for index, recipe in enumerate(recipes):
        file = f"rows-{index}.parquet"
        write = _write_texts if recipe.view.view == "text" else _write_views
        account = write(folder / file, config, recipe, tables, tokenizer, seed)
        accounts.append(account | {"file": file, "view": recipe.view.view, "form": recipe.form, "phase": recipe.phase})
    accounting = combine(accounts, config.row_tokens) | {"tokens_digest": tables.digest}
    (folder / "accounting.json").write_text(json.dumps(accounting, indent=2), encoding="utf-8")
    return accounting


def _write_views(
    path: Path, config: MixtureConfig, recipe: StreamRecipe, tables: Tables, tokenizer: TextTokenizer, seed: int
) -> dict[str, Any]:
    """Write the rows of a stream with different views for teacher and student, and return their account."""
    pairs = write_pairs(
        path,
        recipe.view,
        tables.texts,
        {name: tables.source_names.index(name) for name in tables.texts},
        tokenizer,
        target_tokens=recipe.tokens,
        row_tokens=config.row_tokens,
        seed=seed,
    )
    return paired_account(pairs, tables, config.row_tokens)


def _write_texts(
    path: Path, config: MixtureConfig, recipe: StreamRecipe, all_tables: Tables, tokenizer: TextTokenizer, seed: int
) -> dict[str, Any]:
    """Write the rows of a stream with the same view for teacher and student, and return their account."""
    pool_targets = apportion(recipe.tokens, {str(pool): weight for pool, weight in recipe.weights.items()})
    tables = all_tables.read_by(recipe)
    readings = _order(tables, pool_targets, seed)
    packing = _pack(readings, len(tables), config.row_tokens, seed)
    _log.info("packed %d readings into %d rows", len(readings.length), packing.num_rows)
    documents = _documents(all_tables, tables, readings)
    scored = 0
    with RowWriter(path, config.row_tokens) as writer:
        for rows in lay_out(packing, documents, config.row_tokens, tokenizer.padding_id):
            writer.write(rows)
            scored += int((rows.labels != IGNORE_INDEX).sum())
    return text_account(tables, readings, packing, pool_targets, row_tokens=config.row_tokens, scored_tokens=scored)


def _order(tables: Sequence[Table], pool_targets: Mapping[str, int], seed: int) -> Readings:
    """Return the readings of the tables that meet the targets."""
    available: dict[str, dict[str, int]] = {}
    for table in tables:
        available.setdefault(table.tokenized.pool, {})[table.tokenized.name] = table.tokenized.num_tokens
    targets = source_targets(pool_targets, available)
    names = [table.tokenized.name for table in tables]
    lengths = [table.tokenized.texts.lengths for table in tables]
    return order_readings(names, lengths, [targets[name] for name in names], seed)


def _pack(readings: Readings, num_sources: int, row_tokens: int, seed: int) -> Packing:
    """Return the rows of the readings, every kind of row spread over the run."""
    packing = pack(readings.length, row_tokens)
    shares = np.zeros((packing.num_rows, num_sources), np.int64)
    np.add.at(shares, (packing.row, readings.source[packing.document]), packing.length)
    return packing.reordered(spread_rows(shares, seed))


def _documents(all_tables: Tables, tables: Sequence[Table], readings: Readings) -> DocumentTokens:
    """Return the tokens of all tables, with the place of every reading's document among them."""
    starts = np.cumsum(all_tables.lengths) - all_tables.lengths
    first_document = np.array([table.first_document for table in tables])
    source_ids = np.array([table.source_id for table in tables])
    return DocumentTokens(
        tokens=all_tables.tokens,
        scored=all_tables.scored,
        start=starts[first_document[readings.source] + readings.document],
        source=source_ids[readings.source],
    )
