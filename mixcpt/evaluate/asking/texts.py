"""Texts whose bits are counted: what curation held out, the records of a jsonl file, or the passages of a txt file."""

import re
from pathlib import Path

from mixcpt.config import BitsPerByteTask
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import BadRecord, Item, Record, item_id, read_bytes, read_items, text_field
from mixcpt.store.artifacts import ArtifactRef

_PASSAGE_CHARACTERS = 2000
"""A txt file is one text, and one number has no interval: so it is cut at blank lines into passages of this length."""


def heldout_texts(task: BitsPerByteTask, corpus: ArtifactRef) -> list[Item]:
    """Returns the documents that curation held out of the task's pool, or of one of its sources.

    Raises:
        DataError: If it held out none.
    """
    import pandas as pd

    documents = pd.read_parquet(corpus.file("heldout.parquet"), columns=["doc_id", "source", "pool", "text"])
    documents = documents[documents["pool"] == task.heldout_pool]
    if task.source:
        documents = documents[documents["source"] == task.source]
    items = [Item(str(doc_id), text) for doc_id, text in zip(documents["doc_id"], documents["text"], strict=True)]
    if not items:
        raise DataError(
            f"evaluation task {task.name}: nothing of {task.source or f'the {task.heldout_pool} pool'} was held out",
            "raise curation.heldout_fraction, add documents to the pool, or remove the task",
        )
    return items


def read_texts(path: Path, *, max_lines: int = 0) -> tuple[list[Item], list[BadRecord]]:
    """Returns the texts of a jsonl file (field `text`) or the passages of a txt file, and what could not be used."""
    if is_jsonl(path):
        return read_items(path, _parse, max_lines=max_lines)
    return _passages(path), []


def is_jsonl(path: Path) -> bool:
    """Tells whether a file's name ends in .jsonl, unpacked or not."""
    return path.name.removesuffix(".gz").endswith(".jsonl")


def _parse(record: Record, fallback: str) -> Item:
    return Item(item_id(record, fallback), text_field(record, "text"))


def _passages(path: Path) -> list[Item]:
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
    return [Item(f"{path.name}#{number}", passage) for number, passage in enumerate(passages, start=1)]
