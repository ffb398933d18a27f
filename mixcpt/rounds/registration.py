"""The register of corpora: every delivery is read once, cleaned, stripped of known documents, and published.

A delivery never changes: its questions and held-out documents are copied too, so that every later model is evaluated on
the same items. A further delivery of a corpus has only documents that no earlier delivery has.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count, product
from pathlib import Path
from typing import Any

from mixcpt.config import (
    BitsPerByteTask,
    CorpusConfig,
    CurationConfig,
    FieldNames,
    FilesSource,
    MultipleChoiceTask,
    Task,
    read_stored,
)
from mixcpt.curation.pipeline import clean, require_domain
from mixcpt.curation.report import Corpus
from mixcpt.curation.sources import open_sources
from mixcpt.curation.steps import text_key
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import own_id
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey

_KIND = "registration"
_VERSION = 1
_FILE = "corpus.json"
_QUESTIONS = "questions"
_HELDOUT_TEXTS = "heldout.jsonl"


class NothingNew(DataError):
    """Every document of a delivery is registered already."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A registered delivery of a corpus."""

    name: str
    """Name of the corpus, followed by a number from its second delivery on."""
    note: str
    tasks: tuple[Task, ...]
    """Evaluation tasks about the delivery; their names begin with its name."""
    content: str
    """Digest of the delivered documents, before cleaning."""
    ref: ArtifactRef

    @property
    def source(self) -> FilesSource:
        """Source of the training documents."""
        paths = (str(self.ref.file("documents.parquet")),)
        return FilesSource(name=self.name, pool="domain", paths=paths, fields=FieldNames(id="doc_id"))

    @property
    def num_documents(self) -> int:
        """Number of training documents."""
        return int(self.ref.record["metrics"]["documents"])

    @property
    def num_heldout(self) -> int:
        """Number of held-out documents."""
        return int(self.ref.record["metrics"]["heldout"])


def list_deliveries(store: ArtifactStore) -> list[Delivery]:
    """Return every delivery, oldest first."""
    return [_open(ref) for ref in store.list(_KIND)]


def register(config: CorpusConfig, store: ArtifactStore, *, heldout_fraction: float = 0.05, seed: int = 0) -> Delivery:
    """Publish the delivery of these documents, or find it in the store.

    Args:
        heldout_fraction: Fraction of the documents excluded from training, to measure bits per byte.
        seed: Seed that draws the held-out documents; models to be compared share it (`data_seed`).

    Raises:
        ConfigError: If a file is missing or of an unknown type.
        NothingNew: If every document is registered already.
        DataError: If no document can be used, or nothing could ever measure the corpus.
    """
    with _locked(store):
        earlier = list_deliveries(store)
        name = _delivery_name(config.name, earlier)
        source = config.source.model_copy(update={"name": name})
        settings = CurationConfig(sources=(source,), heldout_fraction=heldout_fraction)
        sources = open_sources(settings)
        content = sources[0].digest
        if same := next((delivery for delivery in earlier if delivery.content == content), None):
            return same

        def build(folder: Path) -> Metrics:
            corpus = clean(settings, sources, seed, _known_texts(earlier))
            _require_use(corpus, config)
            return _write(corpus, config, name, folder)

        identity = {"corpus": config.identity(), "name": name, "heldout": heldout_fraction, "seed": seed}
        inputs = {name: content} | {delivery.name: delivery.ref.digest for delivery in earlier}
        lineage = {"sources": {name: list(sources[0].places)}, "content": content}
        return _open(store.produce(StageKey(_KIND, _VERSION, identity, inputs), build, lineage=lineage))


def _write(corpus: Corpus, config: CorpusConfig, name: str, folder: Path) -> Metrics:
    report = corpus.write(folder)
    heldout = [{"id": own_id(document.id, name), "text": document.text} for document in corpus.heldout]
    lines = [json.dumps(line, ensure_ascii=False) for line in heldout]
    (folder / _HELDOUT_TEXTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    tasks = [_copy_questions(task, folder) for task in config.tasks]
    if heldout:
        tasks.append(BitsPerByteTask(name="bits_per_byte", group="domain", path=_HELDOUT_TEXTS, limit=0))
    prefix = _task_prefix(name)
    dumped = [task.model_dump(mode="json") | {"name": f"{prefix}_{task.name}"} for task in tasks]
    described = {"name": name, "note": config.note, "tasks": dumped}
    (folder / _FILE).write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")
    (counts,) = report.sources.values()
    return {
        "name": name,
        "documents": counts.kept,
        "read": counts.read,
        "heldout": counts.heldout,
        "removed": counts.removed,
        "quarantined": counts.quarantined,
    }


def _copy_questions(task: Task, folder: Path) -> Task:
    """Copy the questions of a task into the delivery's folder, and return the task with the path of the copy."""
    if not isinstance(task, MultipleChoiceTask | BitsPerByteTask):
        return task
    source = Path(task.path).expanduser()
    target = Path(_QUESTIONS) / f"{task.name}{''.join(source.suffixes[-2:])}"
    (folder / _QUESTIONS).mkdir(exist_ok=True)
    try:
        shutil.copyfile(source, folder / target)
    except OSError as error:
        raise DataError(f"task {task.name}: cannot read {source}: {error.strerror}", "check the path") from error
    return task.model_copy(update={"path": str(target)})


def _open(ref: ArtifactRef) -> Delivery:
    described: dict[str, Any] = json.loads(ref.file(_FILE).read_text(encoding="utf-8"))
    tasks = [task | {"path": str(ref.file(task["path"]))} if task.get("path") else task for task in described["tasks"]]
    source = {"kind": "files", "name": described["name"], "pool": "domain", "paths": ["documents.parquet"]}
    return Delivery(
        name=described["name"],
        note=described["note"],
        tasks=read_stored(CorpusConfig, {"source": source, "tasks": tasks}).tasks,
        content=str(ref.record["lineage"]["content"]),
        ref=ref,
    )


def _known_texts(earlier: Sequence[Delivery]) -> Mapping[bytes, str]:
    """Return the id of every registered document, for training or held out, by its content key."""
    import pandas as pd

    known: dict[bytes, str] = {}
    for delivery, part in product(earlier, ("documents", "heldout")):
        documents = pd.read_parquet(delivery.ref.file(f"{part}.parquet"), columns=["doc_id", "text"])
        for name, text in zip(documents["doc_id"], documents["text"], strict=True):
            known.setdefault(text_key(text), name)
    return known


def _delivery_name(name: str, earlier: Sequence[Delivery]) -> str:
    names = {delivery.name for delivery in earlier}
    numbered = (f"{name}-{number}" for number in count(2))
    return next(candidate for candidate in chain([name], numbered) if candidate not in names)


def _require_use(corpus: Corpus, config: CorpusConfig) -> None:
    if not corpus.kept and corpus.removed and all(removal.step == "registered" for removal in corpus.removed):
        raise NothingNew(f"{config.name} has no new document: all {len(corpus.removed)} are registered already")
    require_domain(corpus)
    if not corpus.heldout and not config.tasks:
        raise DataError(
            f"{config.name} has {len(corpus.kept)} documents and no question, so learning it cannot be measured",
            "give questions (--questions), or at least twenty documents, so that one is held out",
        )


def _task_prefix(name: str) -> str:
    plain = "".join(sign if sign.isalnum() and sign.isascii() else "_" for sign in name.lower())
    return plain if plain[0].isalpha() else f"corpus_{plain}"


@contextmanager
def _locked(store: ArtifactStore) -> Iterator[None]:
    """Lock the register for this process: two simultaneous deliveries would both publish their common documents."""
    folder = store.root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "registration.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
