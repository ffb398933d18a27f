"""The tokenised texts of a mixture: every pool in every form that a stream reads, as one long sequence of tokens.

The index of a token in this sequence does not depend on the row that it is packed into, so the outputs of a teacher
can be stored by index.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from mixcpt.config import Form, MixtureConfig, Pool
from mixcpt.mixture.mined import compose
from mixcpt.mixture.readings import POOLS, StreamRecipe
from mixcpt.mixture.tokens import TextTokenizer, TokenizedTexts, unify
from mixcpt.store.artifacts import ArtifactRef

CORPUS_FILES: dict[Pool, str] = {
    "domain": "documents.parquet",
    "general": "documents.parquet",
    "instructions": "instructions.parquet",
    "preferences": "preferences.parquet",
}
_log = logging.getLogger("mixcpt.mixture")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One source of the corpus in one form."""

    source_id: int
    name: str
    pool: Pool
    form: Form
    texts: TokenizedTexts
    first_document: int
    """Index of the table's first text among all texts."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All tables, with their tokens concatenated."""

    tables: tuple[Table, ...]
    source_names: tuple[str, ...]
    """Name of every source; the index is the source id."""
    domain_texts: Mapping[str, list[str]]
    """Plain texts of every source of the domain, for views that cut them."""
    tokens: Int[np.ndarray, " tokens"]
    scored: Bool[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " documents"]

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens and of the lengths of their texts."""
        content = hashlib.sha256(self.lengths.astype("<i8").tobytes())
        content.update(self.tokens.astype("<i4").tobytes())
        return content.hexdigest()

    def read_by(self, recipe: StreamRecipe) -> list[Table]:
        """Return the tables that a stream of texts reads."""
        in_pools = [table for table in self.tables if table.pool in recipe.weights]
        return [table for table in in_pools if table.form == _form(table.pool, recipe)]

    def write(self, path: Path) -> None:
        """Write one record per text, in order."""
        num_texts = [len(table.texts.lengths) for table in self.tables]
        sources = np.repeat([table.source_id for table in self.tables], num_texts)
        offsets = pa.array(np.concatenate([[0], np.cumsum(self.lengths)]), pa.int64())
        ids = pa.LargeListArray.from_arrays(offsets, pa.array(self.tokens, pa.int32()))
        pq.write_table(pa.table({"source": pa.array(sources, pa.int16()), "ids": ids}), path, compression="zstd")


def tokenize_tables(
    config: MixtureConfig, recipes: Sequence[StreamRecipe], corpus: ArtifactRef, tokenizer: TextTokenizer, seed: int
) -> Tables:
    """Return the tokens of every pool that the recipes read, in every form in which they read it."""
    read_pools = set(chain.from_iterable(recipe.weights for recipe in recipes))
    records = {pool: _records(pool, corpus) for pool in POOLS if pool in read_pools}
    names = list(chain.from_iterable(records.values()))
    tables: list[Table] = []
    num_documents = 0
    for pool, by_source in records.items():
        for name, source_records in by_source.items():
            plain = [unify(record, pool, config) for record in source_records]
            for form in _forms(pool, recipes):
                composed = [compose(text.text, form, config.separator, seed=seed) for text in plain]
                texts = tokenizer([replace(text, text=new) for text, new in zip(plain, composed, strict=True)])
                source_id, first = names.index(name), num_documents
                tables.append(
                    Table(source_id=source_id, name=name, pool=pool, form=form, texts=texts, first_document=first)
                )
                num_documents += len(plain)
                _log.info("%s as %s: %d texts, %d tokens", name, form, len(plain), len(texts.tokens))
    domain = records.get("domain", {})
    tokenized = [table.texts for table in tables]
    return Tables(
        tables=tuple(tables),
        source_names=tuple(names),
        domain_texts={name: [record["text"] for record in domain[name]] for name in domain},
        tokens=np.concatenate([np.empty(0, np.int32), *(texts.tokens for texts in tokenized)]),
        scored=np.concatenate([np.empty(0, np.bool_), *(texts.scored for texts in tokenized)]),
        lengths=np.concatenate([np.empty(0, np.int64), *(texts.lengths for texts in tokenized)]),
    )


def _records(pool: Pool, corpus: ArtifactRef) -> dict[str, list[dict[str, str]]]:
    """Return the records of a pool by source, in the order of the corpus."""
    by_source: dict[str, list[dict[str, str]]] = {}
    for record in pq.read_table(corpus.file(CORPUS_FILES[pool])).to_pylist():
        if record.get("pool", pool) == pool:
            by_source.setdefault(record["source"], []).append(record)
    return by_source


def _forms(pool: Pool, recipes: Sequence[StreamRecipe]) -> list[Form]:
    """Return the forms in which streams of texts read a pool, in the order of the streams."""
    readers = [recipe for recipe in recipes if pool in recipe.weights and recipe.view.view == "text"]
    return list(dict.fromkeys(_form(pool, recipe) for recipe in readers))


def _form(pool: Pool, recipe: StreamRecipe) -> Form:
    """Return the form in which a stream reads a pool; tasks are mined only from documents of the domain."""
    return recipe.form if pool == "domain" else "text"
