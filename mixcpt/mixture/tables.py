"""The tokenised texts of a mixture: every pool in every form that a stream reads, as one long row of tokens.

A token's index in it names the token whatever row it is packed into; what a teacher says of it can be kept by that.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from mixcpt.config import Form, MixtureConfig, Pool
from mixcpt.mixture.mined import compose
from mixcpt.mixture.recipe import POOLS, StreamRecipe
from mixcpt.mixture.tokens import TextTokenizer, TokenizedSource
from mixcpt.mixture.unify import PlainText, unify
from mixcpt.store.artifacts import ArtifactRef

_FILES: dict[Pool, str] = {
    "domain": "documents.parquet",
    "general": "documents.parquet",
    "instructions": "instructions.parquet",
    "preferences": "preferences.parquet",
}
_log = logging.getLogger("mixcpt.mixture")


@dataclass(frozen=True)
class Table:
    """One source in one form."""

    source_id: int
    form: Form
    tokenized: TokenizedSource
    first_document: int
    """Index of its first text among all texts."""


@dataclass(frozen=True)
class Tables:
    """All tables, one behind the other."""

    tables: tuple[Table, ...]
    source_names: tuple[str, ...]
    """By source id."""
    texts: Mapping[str, list[str]]
    """The plain texts of the domain's sources, for views that cut them."""
    tokens: Int[np.ndarray, " tokens"]
    scored: Bool[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " documents"]

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens and of where their texts end."""
        content = hashlib.sha256(self.lengths.astype("<i8").tobytes())
        content.update(self.tokens.astype("<i4").tobytes())
        return content.hexdigest()

    def of(self, recipe: StreamRecipe) -> list[Table]:
        """Returns the tables that a stream of texts reads."""
        return [
            table
            for table in self.tables
            if table.tokenized.pool in recipe.weights and table.form == _form(table.tokenized.pool, recipe)
        ]

    def write(self, path: Path) -> None:
        """Writes one record per text, in order."""
        sources = np.repeat(
            [table.source_id for table in self.tables], [len(table.tokenized.texts.lengths) for table in self.tables]
        )
        offsets = pa.array(np.concatenate([[0], np.cumsum(self.lengths)]), pa.int64())
        ids = pa.LargeListArray.from_arrays(offsets, pa.array(self.tokens, pa.int32()))
        pq.write_table(pa.table({"source": pa.array(sources, pa.int16()), "ids": ids}), path, compression="zstd")


def tokenize_tables(
    config: MixtureConfig, recipes: Sequence[StreamRecipe], corpus: ArtifactRef, tokenizer: TextTokenizer, seed: int
) -> Tables:
    """Returns every pool that the recipes read, each in the forms in which they do, in an order of their own."""
    records = {pool: _records(pool, corpus) for pool in POOLS if any(pool in recipe.weights for recipe in recipes)}
    names = [name for by_source in records.values() for name in by_source]
    tables: list[Table] = []
    num_documents = 0
    for pool, by_source in records.items():
        for name, of_source in by_source.items():
            plain = [unify(record, pool, config) for record in of_source]
            for form in _forms(pool, recipes):
                texts = [PlainText(_composed(text.text, form, config, seed), text.scored_from) for text in plain]
                source = TokenizedSource(name, pool, tokenizer(texts))
                tables.append(Table(names.index(name), form, source, num_documents))
                num_documents += len(texts)
                _log.info("%s as %s: %d texts, %d tokens", name, form, len(texts), source.num_tokens)
    return _joined(tables, names, {name: [record["text"] for record in of] for name, of in _domain(records).items()})


def _joined(tables: Sequence[Table], names: Sequence[str], texts: Mapping[str, list[str]]) -> Tables:
    all_texts = [table.tokenized.texts for table in tables]
    return Tables(
        tuple(tables),
        tuple(names),
        texts,
        np.concatenate([np.empty(0, np.int32), *(each.tokens for each in all_texts)]),
        np.concatenate([np.empty(0, np.bool_), *(each.scored for each in all_texts)]),
        np.concatenate([np.empty(0, np.int64), *(each.lengths for each in all_texts)]),
    )


def _records(pool: Pool, corpus: ArtifactRef) -> dict[str, list[dict[str, str]]]:
    """Returns the records of a pool by source, in the order in which the corpus has them."""
    by_source: dict[str, list[dict[str, str]]] = {}
    for record in pq.read_table(corpus.file(_FILES[pool])).to_pylist():
        if record.get("pool", pool) == pool:
            by_source.setdefault(record["source"], []).append(record)
    return by_source


def _domain(records: Mapping[Pool, dict[str, list[dict[str, str]]]]) -> dict[str, list[dict[str, str]]]:
    return records.get("domain", {})


def _forms(pool: Pool, recipes: Sequence[StreamRecipe]) -> list[Form]:
    """Returns the forms in which streams of texts read a pool, in the order in which they first come up."""
    reading = [recipe for recipe in recipes if pool in recipe.weights and recipe.view.view == "text"]
    return list(dict.fromkeys(_form(pool, recipe) for recipe in reading))


def _form(pool: Pool, recipe: StreamRecipe) -> Form:
    """Returns the form in which a stream reads a pool: tasks are mined from the domain's documents alone."""
    return recipe.form if pool == "domain" else "text"


def _composed(text: str, form: Form, config: MixtureConfig, seed: int) -> str:
    return text if form == "text" else compose(text, form, config.separator, seed=seed)[0]
