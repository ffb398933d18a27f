"""Open-book questions: the domain's questions, each after its document, to measure answers from reading only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixcpt.config import ClosedWorldTask, is_question
from mixcpt.evaluate.asking.items import Item, own_id
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.store.artifacts import ArtifactRef

_SEPARATOR = "\n"


def open_book(tasks: Sequence[TaskItems], corpus: ArtifactRef) -> list[TaskItems]:
    """Return the domain's questions with their documents in the prompt, without questions whose document is unknown.

    The `passage_field` of a question names its document by the record's id; a closed-world question is about the first
    document of its entity. The documents are the ones that training reads, as a retriever would also find them.
    """
    corpus_documents: Mapping[str, str] = {}
    open_tasks = []
    for task in tasks:
        if task.config.group != "domain" or not is_question(task.config):
            continue
        if isinstance(task.config, ClosedWorldTask):
            documents = _world_documents(task.config)
        else:
            documents = corpus_documents = corpus_documents or _corpus_documents(corpus)
        items = [_after_document(item, documents[item.passage]) for item in task.items if item.passage in documents]
        if items:
            open_tasks.append(TaskItems(task.config, tuple(items)))
    return open_tasks


def _after_document(item: Item, document: str) -> Item:
    return replace(item, prompt=f"{document}{_SEPARATOR}{item.prompt}")


def _world_documents(task: ClosedWorldTask) -> Mapping[str, str]:
    from mixcpt.closed_world import first_documents

    return first_documents(task.seed, task.entities)


def _corpus_documents(corpus: ArtifactRef) -> Mapping[str, str]:
    """Return the domain's documents by the ids of their own records."""
    import pandas as pd

    columns = ["doc_id", "source", "pool", "text"]
    frames = [pd.read_parquet(corpus.file(f"{name}.parquet"), columns=columns) for name in ("heldout", "documents")]
    documents = pd.concat(frames)
    documents = documents[documents["pool"] == "domain"]
    return {
        own_id(doc_id, source): text
        for doc_id, source, text in zip(documents["doc_id"], documents["source"], documents["text"], strict=True)
    }
