"""The mixture from end to end: unify, tokenise, order, pack, lay out, publish; one file of rows per stream."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixcpt.config import MixtureConfig, StreamConfig
from mixcpt.mixture.account import FILE, combine, paired_account, text_account
from mixcpt.mixture.keys import mixture_key
from mixcpt.mixture.packing import Packing, pack, spread_rows
from mixcpt.mixture.pairs import write_pairs
from mixcpt.mixture.readings import Readings, StreamRecipe, apportion, order_readings, recipes, source_targets
from mixcpt.mixture.rows import DocumentTokens, lay_out, write_rows
from mixcpt.mixture.tables import Table, Tables, tokenize_tables
from mixcpt.mixture.tokens import TextTokenizer
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

    def build(folder: Path) -> Mapping[str, Any]:
        tokenizer = TextTokenizer(base, parse_special_tokens=config.special_tokens == "parse")
        stream_recipes = recipes(config, streams)
        tables = tokenize_tables(config, stream_recipes, corpus, tokenizer=tokenizer, seed=seed)
        tables.write(folder / "tokens.parquet")
        accounts = []
        for index, recipe in enumerate(stream_recipes):
            file, view = f"rows-{index}.parquet", recipe.view.view
            write = _write_texts if view == "text" else _write_views
            account = write(folder / file, recipe, tables, tokenizer, row_tokens=config.row_tokens, seed=seed)
            accounts.append(account | {"file": file, "view": view, "form": recipe.form, "phase": recipe.phase})
        accounting = combine(accounts, config.row_tokens) | {"tokens_digest": tables.digest}
        (folder / FILE).write_text(json.dumps(accounting, indent=2), encoding="utf-8")
        return accounting

    key = mixture_key(config, streams, corpus, base, seed=seed)
    return store.produce(key, build, lineage={"corpus": corpus.to_json(), "base": base.to_json()})


def _write_views(
    path: Path, recipe: StreamRecipe, tables: Tables, tokenizer: TextTokenizer, *, row_tokens: int, seed: int
) -> dict[str, Any]:
    """Write the rows of a stream with different views for teacher and student, and return their account."""
    pairs = write_pairs(
        path,
        recipe.view,
        tables.domain_texts,
        source_ids={name: tables.source_names.index(name) for name in tables.domain_texts},
        tokenizer=tokenizer,
        target_tokens=recipe.tokens,
        row_tokens=row_tokens,
        seed=seed,
    )
    return paired_account(pairs, tables, row_tokens)


def _write_texts(
    path: Path, recipe: StreamRecipe, all_tables: Tables, tokenizer: TextTokenizer, *, row_tokens: int, seed: int
) -> dict[str, Any]:
    """Write the rows of a stream with the same view for teacher and student, and return their account."""
    pool_targets = apportion(recipe.tokens, {str(pool): weight for pool, weight in recipe.weights.items()})
    tables = all_tables.read_by(recipe)
    readings = _order(tables, pool_targets, seed)
    packing = _pack(readings, len(tables), row_tokens, seed=seed)
    _log.info("packed %d readings into %d rows", len(readings.length), packing.num_rows)
    blocks = lay_out(packing, _documents(all_tables, tables, readings), row_tokens, padding_id=tokenizer.padding_id)
    scored_tokens = write_rows(path, blocks, row_tokens)
    return text_account(
        tables, readings, packing, pool_targets=pool_targets, row_tokens=row_tokens, scored_tokens=scored_tokens
    )


def _order(tables: Sequence[Table], pool_targets: Mapping[str, int], seed: int) -> Readings:
    """Return the readings of the tables that meet the targets."""
    available: dict[str, dict[str, int]] = {}
    for table in tables:
        available.setdefault(table.pool, {})[table.name] = len(table.texts.tokens)
    targets = source_targets(pool_targets, available)
    names = [table.name for table in tables]
    lengths = [table.texts.lengths for table in tables]
    return order_readings(names, lengths, [targets[name] for name in names], seed=seed)


def _pack(readings: Readings, num_sources: int, row_tokens: int, *, seed: int) -> Packing:
    """Return the rows of the readings, every kind of row spread over the run."""
    packing = pack(readings.length, row_tokens)
    shares = np.zeros((packing.num_rows, num_sources), np.int64)
    np.add.at(shares, (packing.row, readings.source[packing.document]), packing.length)
    return packing.reordered(spread_rows(shares, seed))


def _documents(all_tables: Tables, tables: Sequence[Table], readings: Readings) -> DocumentTokens:
    """Return the tokens of all tables, with the place of every reading's document among them."""
    first_document = np.array([table.first_document for table in tables])
    document = first_document[readings.source] + readings.document
    starts = np.cumsum(all_tables.lengths) - all_tables.lengths
    source_ids = np.array([table.source_id for table in tables])
    return DocumentTokens(
        all_tables.tokens, all_tables.scored, start=starts[document], source=source_ids[readings.source]
    )
