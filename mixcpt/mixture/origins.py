"""The documents in a row of a mixture, for messages about the row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from mixcpt.config import Pool
from mixcpt.errors import ModelError
from mixcpt.mixture.account import MixtureAccount, SourceAccount
from mixcpt.mixture.tables import CORPUS_FILES
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef, load_tokenizer

Columns = Mapping[str, Int[np.ndarray, " _"]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A document, or a part of one, in a row."""

    source: str
    document: str
    """Id in the corpus; empty if the document is not found there."""
    text: str


class Origins:
    """Finds the documents of rows by the index of their tokens, or by their text."""

    def __init__(self, mixture: ArtifactRef, base: ModelRef) -> None:
        self._mixture = mixture
        self._base = base
        self._sources: Mapping[int, SourceAccount] = {
            source.id: source for source in MixtureAccount.of(mixture).sources
        }
        self._known: dict[int, list[tuple[str, str]]] = {}

    def parts(self, row: Columns) -> list[Part]:
        """Return the documents of a row, from left to right; `row` has the columns of its stream."""
        return list(self._pair_parts(row) if "student_ids" in row else self._text_parts(row))

    def _text_parts(self, row: Columns) -> Iterator[Part]:
        for start, end in _segments(row["position_ids"]):
            if (number := int(row["source_ids"][start])) >= 0:
                document = self._document(number, int(row["token_index"][start]))
                yield self._part(number, document, row["input_ids"][start:end])

    def _pair_parts(self, row: Columns) -> Iterator[Part]:
        """Yield the teacher's documents; those without a part of the student are padding."""
        for start, end in _segments(row["position_ids"]):
            read = (row["teacher_index"] >= start) & (row["teacher_index"] < end)
            if read.any():
                number = int(row["student_source_ids"][read.argmax()])
                part = self._part(number, "", row["input_ids"][start:end])
                yield replace(part, document=self._document_with(number, part.text))

    def _part(self, number: int, document: str, ids: Int[np.ndarray, " tokens"]) -> Part:
        text = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True) if self._tokenizer else ""
        return Part(source=self._sources[number].name, document=document, text=str(text))

    def _document(self, number: int, token_index: int) -> str:
        """Return the id of the document of a token; the texts of a source are in order, once in every form."""
        if self._texts is None or not (records := self._records(number)):
            return ""
        sources, ends = self._texts
        text = int(np.searchsorted(ends, token_index, side="right"))
        return records[(text - int((sources == number).argmax())) % len(records)][0]

    def _document_with(self, number: int, text: str) -> str:
        """Return the id of the document with a text."""
        squashed = _squashed(text)
        return next((name for name, known in self._records(number) if _squashed(known) == squashed), "")

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            return load_tokenizer(self._base)
        except ModelError:
            return None

    @cached_property
    def _texts(self) -> tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " texts"]] | None:
        """Source of every text of the mixture, and the index after its last token."""
        if not (path := self._mixture.file("tokens.parquet")).is_file():
            return None
        table = pq.read_table(path)
        lengths = pc.list_value_length(table.column("ids")).to_numpy()
        return table.column("source").to_numpy(), np.cumsum(lengths)

    def _records(self, number: int) -> list[tuple[str, str]]:
        """Return id and text of a source's records in the order of the corpus; empty if the corpus is gone."""
        if number not in self._known:
            self._known[number] = list(self._read(self._sources[number]))
        return self._known[number]

    def _read(self, source: SourceAccount) -> Iterator[tuple[str, str]]:
        corpus = self._mixture.record["lineage"].get("corpus", {}).get("path", "")
        path = Path(corpus) / CORPUS_FILES[cast(Pool, source.pool)]
        if not corpus or not path.is_file():
            return
        for record in pq.read_table(path).to_pylist():
            if record["source"] == source.name and record.get("pool", source.pool) == source.pool:
                yield str(record.get("doc_id") or record.get("id") or ""), record.get("text", "")


def _segments(position_ids: Int[np.ndarray, " tokens"]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of every packed document."""
    starts = np.flatnonzero(position_ids == 0).tolist()
    yield from zip(starts, [*starts[1:], len(position_ids)], strict=True)


def _squashed(text: str) -> str:
    """Return the text without spaces, which some tokenizers change."""
    return "".join(text.split())
