"""Texts scored in bits per byte: held-out documents, the records of a jsonl file, or the passages of a txt file."""

import re
from pathlib import Path

from mixcpt.config import BitsPerByteTask
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import BadRecord, Item, Record, item_id, read_bytes, read_items, text_field
from mixcpt.store.artifacts import ArtifactRef

_PASSAGE_CHARACTERS = 2000
"""Minimum length of the passages that a txt file is cut into: a single text would have no interval."""


def heldout_texts(task: BitsPerByteTask, corpus: ArtifactRef) -> list[Item]:
    """Return the held-out documents of the task's pool, or of one of its sources.

    Raises:
        DataError: If curation held out none.
    """
    import pandas as pd

    documents = pd.read_parquet(corpus.file("heldout.parquet"), columns=["doc_id", "source", "pool", "text"])
    documents = documents[documents["pool"] == task.heldout_pool]
    if task.source:
        documents = documents[documents["source"] == task.source]
    rows = zip(documents["doc_id"], documents["text"], strict=True)
    items = [Item(id=str(doc_id), prompt=text) for doc_id, text in rows]
    if not items:
        raise DataError(
            f"evaluation task {task.name}: no document of {task.source or f'the {task.heldout_pool} pool'} is held out",
            "raise curation.heldout_fraction, add documents to the pool, or remove the task",
        )
    return items


def read_texts(path: Path, *, max_lines: int = 0) -> tuple[list[Item], list[BadRecord]]:
    """Return the texts of a jsonl file (field `text`) or the passages of a txt file, and the rejected records."""
    if is_jsonl(path):
        return read_items(path, _parse, max_lines=max_lines)
    return _passages(path), []


def is_jsonl(path: Path) -> bool:
    """Return whether a file name ends in .jsonl or .jsonl.gz."""
    return path.name.removesuffix(".gz").endswith(".jsonl")


def _parse(record: Record, fallback: str) -> Item:
    return Item(id=item_id(record, fallback), prompt=text_field(record, "text"))


def _passages(path: Path) -> list[Item]:
    """Return the passages of a txt file, cut at blank lines."""
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from None
    passages = [""]
    for paragraph in re.split(r"\n[ \t]*\n\s*", "\n".join(text.strip().splitlines())):
        if len(passages[-1]) >= _PASSAGE_CHARACTERS:
            passages.append("")
        passages[-1] = f"{passages[-1]}\n\n{paragraph}".strip()
    if not passages[0]:
        raise DataError(f"{path} is empty", "give a file with text")
    return [Item(id=f"{path.name}#{number}", prompt=passage) for number, passage in enumerate(passages, start=1)]
