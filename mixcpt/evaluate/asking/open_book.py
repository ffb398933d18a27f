"""The questions of the domain, each behind the document that it is about: what reading alone would answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixcpt.config import ClosedWorldTask, is_question
from mixcpt.evaluate.asking.items import Item, own_id
from mixcpt.evaluate.asking.tasks import TaskItems
from mixcpt.store.artifacts import ArtifactRef

_BETWEEN = "\n"


def open_book(tasks: Sequence[TaskItems], corpus: ArtifactRef) -> list[TaskItems]:
    """Returns the domain's questions with their documents in the prompt; none for tasks whose documents are unknown.

    A question is about the document that its `passage_field` names by the record's id; one of the closed world is
    about the first document of its entity. Documents are those that training reads, for so would a retriever.
    """
    documents: Mapping[str, str] = {}
    found = []
    for asked in tasks:
        if asked.task.group != "domain" or not is_question(asked.task):
            continue
        if isinstance(asked.task, ClosedWorldTask):
            known = _world_documents(asked.task)
        else:
            known = documents = documents or _corpus_documents(corpus)
        if items := tuple(_behind(item, known[item.passage]) for item in asked.items if item.passage in known):
            found.append(TaskItems(asked.task, items))
    return found


def _behind(item: Item, document: str) -> Item:
    return replace(item, prompt=f"{document}{_BETWEEN}{item.prompt}")


def _world_documents(task: ClosedWorldTask) -> Mapping[str, str]:
    from mixcpt.closed_world import first_documents

    return first_documents(task.seed, task.entities)


def _corpus_documents(corpus: ArtifactRef) -> Mapping[str, str]:
    """Returns the domain's documents by the ids that their own records gave them."""
    import pandas as pd

    columns = ["doc_id", "source", "pool", "text"]
    frames = [pd.read_parquet(corpus.file(f"{name}.parquet"), columns=columns) for name in ("heldout", "documents")]
    documents = pd.concat(frames)
    documents = documents[documents["pool"] == "domain"]
    return {
        own_id(doc_id, source): text
        for doc_id, source, text in zip(documents["doc_id"], documents["source"], documents["text"], strict=True)
    }
