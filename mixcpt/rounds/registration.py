"""Corpora as they arrive: read once, cleaned, told apart from what is there already, and kept in the store.

What is registered stays as it was: questions and held-out documents are copied too, so that every later model is asked
the same. A further delivery of a corpus holds only what no earlier one had.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
)
from mixcpt.curation import clean, open_sources, require_domain, text_key
from mixcpt.curation.report import Corpus
from mixcpt.errors import DataError
from mixcpt.evaluate.asking.items import own_id
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey

_KIND = "registration"
_VERSION = 1
_FILE = "corpus.json"
_QUESTIONS = "questions"
_HELDOUT_TEXTS = "heldout.jsonl"


class NothingNew(DataError):
    """Every document is registered already."""


@dataclass(frozen=True)
class Registered:
    """A delivery of a corpus, as it lies in the store."""

    name: str
    """Name of the corpus; from its second delivery on with a number."""
    note: str
    tasks: tuple[Task, ...]
    """What is asked about it; their names begin with its own."""
    content: str
    """Digest of what was delivered, before cleaning."""
    ref: ArtifactRef

    @property
    def source(self) -> FilesSource:
        """Its documents for training."""
        paths = (str(self.ref.file("documents.parquet")),)
        return FilesSource(name=self.name, pool="domain", paths=paths, fields=FieldNames(id="doc_id"))

    @property
    def num_documents(self) -> int:
        """Documents for training."""
        return int(self.ref.record["metrics"]["documents"])

    @property
    def num_heldout(self) -> int:
        """Documents that are measured on."""
        return int(self.ref.record["metrics"]["heldout"])


def registered(store: ArtifactStore) -> list[Registered]:
    """Returns every delivery, oldest first."""
    return [_open(ref) for ref in store.list(_KIND)]


def register(
    config: CorpusConfig, store: ArtifactStore, *, heldout_fraction: float = 0.05, seed: int = 0
) -> Registered:
    """Returns the delivery of these documents, published where the store did not have it.

    Args:
        config: Documents and questions.
        store: Where they are kept.
        heldout_fraction: Share of the documents that no training will read, to measure bits per byte on.
        seed: Of which those are; models that are to be compared share it (`data_seed`).

    Raises:
        ConfigError: If a file is missing or of an unknown kind.
        NothingNew: If every document is registered already.
        DataError: If no document can be used, or nothing could ever be measured of them.
    """
    with _one_at_a_time(store):
        earlier = registered(store)
        name = _delivery_name(config.name, earlier)
        source = config.source.model_copy(update={"name": name})
        settings = CurationConfig(sources=(source,), heldout_fraction=heldout_fraction)
        sources = open_sources(settings)
        content = sources[0].digest
        if known := next((delivery for delivery in earlier if delivery.content == content), None):
            return known

        def build(folder: Path) -> Metrics:
            corpus = clean(settings, sources, seed, _known_texts(earlier))
            _require_use(corpus, config)
            return _write(corpus, config, name, folder)

        identity = {"corpus": config.model_dump(mode="json"), "name": name, "heldout": heldout_fraction, "seed": seed}
        inputs = {name: content} | {delivery.name: delivery.ref.digest for delivery in earlier}
        lineage = {"sources": {name: list(sources[0].places)}, "content": content}
        return _open(store.produce(StageKey(_KIND, _VERSION, identity, inputs), build, lineage=lineage))


def _write(corpus: Corpus, config: CorpusConfig, name: str, folder: Path) -> Metrics:
    report = corpus.write(folder)
    heldout = [{"id": own_id(each.id, name), "text": each.text} for each in corpus.heldout]
    lines = [json.dumps(line, ensure_ascii=False) for line in heldout]
    (folder / _HELDOUT_TEXTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    tasks = [_copied(task, folder) for task in config.tasks]
    if heldout:
        tasks.append(BitsPerByteTask(name="bits_per_byte", group="domain", path=_HELDOUT_TEXTS, limit=0))
    prefix = _task_prefix(name)
    dumped = [task.model_dump(mode="json") | {"name": f"{prefix}_{task.name}"} for task in tasks]
    described = {"name": name, "note": config.note, "tasks": dumped}
    (folder / _FILE).write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")
    (of,) = report["sources"].values()
    return {
        "name": name,
        "documents": of["kept"],
        **{key: of[key] for key in ("read", "heldout", "removed", "quarantined")},
    }


def _copied(task: Task, folder: Path) -> Task:
    """Returns the task with a copy of its questions beside the documents."""
    if not isinstance(task, MultipleChoiceTask | BitsPerByteTask):
        return task
    given = Path(task.path).expanduser()
    copied = Path(_QUESTIONS) / f"{task.name}{''.join(given.suffixes[-2:])}"
    (folder / _QUESTIONS).mkdir(exist_ok=True)
    try:
        shutil.copyfile(given, folder / copied)
    except OSError as error:
        raise DataError(f"the task {task.name}: cannot read {given}: {error.strerror}", "check the path") from error
    return task.model_copy(update={"path": str(copied)})


def _open(ref: ArtifactRef) -> Registered:
    described: dict[str, Any] = json.loads(ref.file(_FILE).read_text(encoding="utf-8"))
    found = [task | {"path": str(ref.file(task["path"]))} if task.get("path") else task for task in described["tasks"]]
    source = {"kind": "files", "name": described["name"], "pool": "domain", "paths": ["documents.parquet"]}
    tasks = CorpusConfig.model_validate({"source": source, "tasks": found}).tasks
    return Registered(described["name"], described["note"], tasks, str(ref.record["lineage"]["content"]), ref)


def _known_texts(earlier: Sequence[Registered]) -> Mapping[bytes, str]:
    """Returns the identifier of every registered document, for training or held out, by its content key."""
    import pandas as pd

    files = [delivery.ref.file(f"{part}.parquet") for delivery in earlier for part in ("documents", "heldout")]
    known: dict[bytes, str] = {}
    for file in files:
        documents = pd.read_parquet(file, columns=["doc_id", "text"])
        for name, text in zip(documents["doc_id"], documents["text"], strict=True):
            known.setdefault(text_key(text), name)
    return known


def _delivery_name(name: str, earlier: Sequence[Registered]) -> str:
    names = {delivery.name for delivery in earlier}
    numbered = (f"{name}-{number}" for number in range(2, len(names) + 3))
    return name if name not in names else next(each for each in numbered if each not in names)


def _require_use(corpus: Corpus, config: CorpusConfig) -> None:
    if not corpus.kept and corpus.removed and all(removal.step == "registered" for removal in corpus.removed):
        raise NothingNew(f"{config.name} has nothing new: all of its {len(corpus.removed)} documents are registered")
    require_domain(corpus)
    if not corpus.heldout and not config.tasks:
        raise DataError(
            f"{config.name} has {len(corpus.kept)} documents and no question, so that nothing about it can be measured",
            "give questions (--questions), or documents enough to hold one out (twenty)",
        )


def _task_prefix(name: str) -> str:
    plain = "".join(sign if sign.isalnum() and sign.isascii() else "_" for sign in name.lower())
    return plain if plain[0].isalpha() else f"corpus_{plain}"


@contextmanager
def _one_at_a_time(store: ArtifactStore) -> Iterator[None]:
    """Holds the register for this process: two deliveries at once would both think the other's documents new."""
    folder = store.root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "registration.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
