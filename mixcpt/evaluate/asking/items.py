"""Items that a model is evaluated on: questions and texts."""

from dataclasses import dataclass
from itertools import chain

from mixcpt.config import BitsPerByteTask
from mixcpt.curation.corpus_report import HELDOUT_INSTRUCTIONS
from mixcpt.curation.passages import cut
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question or text that a model is evaluated on."""

    id: str
    prompt: str
    """The question, the beginning of a sentence, or a whole text that is scored in bits per byte."""
    gold: str = ""
    """The correct answer, or the answer that is scored in bits per byte."""
    choices: tuple[str, ...] = ()
    """All choices, with `gold` exactly once among them; empty if the model answers freely."""
    passage: str = ""
    """Name of the passage that the item is about, since such items are dependent; empty if the item is independent."""
    fact: str = ""
    """Name of the fact that the item asks for, shared by items of several tasks; empty if no other item asks for it."""

    @property
    def cluster(self) -> str:
        """Name of the passage; the item's own id if it is independent."""
        return self.passage or self.id

    @property
    def chance(self) -> float:
        """Probability that a random choice is correct; 0 without choices."""
        return 1 / len(self.choices) if self.choices else 0.0


def heldout_items(task: BitsPerByteTask, corpus: ArtifactRef) -> list[Item]:
    """Return the held-out records of the task's pool or source; raise `DataError` if there are none."""
    import pandas as pd

    if task.heldout_pool == "instructions":
        return _heldout_answers(task, corpus)
    documents = pd.read_parquet(corpus.file("heldout.parquet"), columns=["doc_id", "source", "pool", "text"])
    documents = documents[documents["pool"] == task.heldout_pool]
    if task.source:
        documents = documents[documents["source"] == task.source]
    if documents.empty:
        raise DataError(
            f"evaluation task {task.name}: no document of {task.source or f'the {task.heldout_pool} pool'} is held out",
            "raise curation.heldout_fraction, add documents to the pool, or remove the task",
        )
    rows = zip(documents["doc_id"], documents["text"], strict=True)
    return list(chain.from_iterable(_passages(str(doc_id), text, task.passage_characters) for doc_id, text in rows))


def _passages(doc_id: str, text: str, characters: int) -> list[Item]:
    """Return a document as one item, or as one item per passage with at least this many characters."""
    passages = cut(text, characters) if characters else [text]
    if len(passages) <= 1:
        return [Item(id=doc_id, prompt=text)]
    return [Item(id=f"{doc_id}#{number}", prompt=passage) for number, passage in enumerate(passages, start=1)]


def _heldout_answers(task: BitsPerByteTask, corpus: ArtifactRef) -> list[Item]:
    """Return the held-out instructions of the task's source or of all sources."""
    import pandas as pd

    file = corpus.file(HELDOUT_INSTRUCTIONS)
    samples = pd.read_parquet(file).to_dict("records") if file.exists() else []
    items = [
        Item(id=str(sample["id"]), prompt=sample["prompt"], gold=sample["response"])
        for sample in samples
        if task.source in ("", sample["source"])
    ]
    if not items:
        raise DataError(
            f"evaluation task {task.name}: no instruction{f' of {task.source}' if task.source else ''} is held out",
            "set curation.heldout_instructions and give more instructions (a tenth is held out), or remove the task",
        )
    return items


def own_id(doc_id: str, source: str) -> str:
    """Return the id from a document's own record: curation adds the source's name in front of it."""
    return doc_id.removeprefix(f"{source}/")
