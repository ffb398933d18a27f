"""What a model was made of, down to files, and which models a document has reached: as a tree."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from mixcpt.curation.corpus_report import CorpusReport, SourceFile
from mixcpt.report import words
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.lineage import Catalogue

_ROLES = ("base", "model", "mixture", "selection", "corpus", "cache")
"""What an artifact was made of, in the order in which it is shown; the rest (probe, tokenizer) decides little."""


@dataclass(frozen=True)
class Node:
    """One thing in a chain of makers."""

    kind: str
    text: str
    """In words, with its figures."""
    digest: str = ""
    path: str = ""
    children: Sequence["Node"] = field(default=())

    def to_json(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if value and name != "children"}
        return own | ({"made_of": [child.to_json() for child in self.children]} if self.children else {})

    def to_tree(self) -> Tree:
        """Returns the tree for a terminal."""
        tree = Tree(Text(words.printable(self.text)))
        for child in self.children:
            tree.add(child.to_tree())
        return tree


def descent(catalogue: Catalogue, ref: ArtifactRef) -> Node:
    """Returns what an artifact was made of, down to the files of its sources; what comes up again is not unfolded."""
    return _descent(catalogue, ref, "", set())


def _descent(catalogue: Catalogue, ref: ArtifactRef, role: str, shown: set[str]) -> Node:
    record = catalogue.record(ref)
    text = _line(ref, record, role)
    if ref.fingerprint in shown:
        return Node(ref.kind, f"{text}, as above", ref.digest, ref.path)
    shown.add(ref.fingerprint)
    parents = catalogue.parents(ref)
    children = [_descent(catalogue, parents[name], name, shown) for name in _ROLES if name in parents]
    if ref.kind == "corpus":
        children += _sources(catalogue, ref)
    if "base" in record["inputs"] and "base" not in parents:
        name = record["lineage"].get("base", "base model")
        children.insert(0, Node("base", f"base model {name}", record["inputs"]["base"]))
    return Node(ref.kind, text, ref.digest, ref.path, tuple(children))


def runs_of(catalogue: Catalogue, model: ArtifactRef) -> list[str]:
    """Returns the names of the runs in which a model took part, oldest first."""
    found = [ref for ref in catalogue.children(model) if ref.kind == "run"]
    return list(dict.fromkeys(str(catalogue.record(ref)["metrics"]["name"]) for ref in found))


@dataclass(frozen=True)
class Reached:
    """A document, or a whole file, in one corpus, and what came of it."""

    document: str
    """Its identifier in the corpus, or the name of the file."""
    corpus: ArtifactRef
    part: str
    """`read` where training could read it; `held out`, `removed` or `quarantined` where it could not."""
    reason: str
    models: tuple[ArtifactRef, ...]
    """Made of the corpus; none where the document was in no part that is read."""

    @property
    def text(self) -> str:
        """In words."""
        reason = f" ({self.reason})" if self.reason else ""
        place = "the registered corpus, which waits for its round," if self.corpus.kind == "registration" else "corpus"
        return f"{self.document}: {self.part}{reason} in {place} {self.corpus.digest[:12]}"

    def to_json(self, catalogue: Catalogue) -> dict[str, Any]:
        models = [{"digest": ref.digest, "path": ref.path, "runs": runs_of(catalogue, ref)} for ref in self.models]
        return {"document": self.document, "part": self.part, "corpus": self.corpus.digest, "models": models}

    def to_tree(self, catalogue: Catalogue) -> Tree:
        """Returns the tree for a terminal: the models, and the runs in which they are."""
        tree = Tree(Text(words.printable(self.text)))
        for ref in self.models:
            runs = words.listing(runs_of(catalogue, ref)) or "no run"
            tree.add(Text(words.printable(f"{_line(ref, catalogue.record(ref), '')} in {runs}")))
        return tree


def reached(catalogue: Catalogue, wanted: str) -> list[Reached]:
    """Returns where a document went: named by its identifier, by its file's name or path, or by words of its text.

    What is registered and waits for its round is found too; no model is made of it yet.
    """
    read = [ref for ref in catalogue.refs if ref.kind == "corpus"]
    sources = [files for ref in read for files in catalogue.record(ref)["lineage"]["sources"].values()]
    opened = {str(Path(file).parent) for files in sources for file in files}
    waiting = [ref for ref in catalogue.refs if ref.kind == "registration" and ref.path not in opened]
    return [found for corpus in (*read, *waiting) for found in _found_in(catalogue, corpus, wanted)]


def _found_in(catalogue: Catalogue, corpus: ArtifactRef, wanted: str) -> Iterator[Reached]:
    models = tuple(ref for ref in catalogue.descendants(corpus) if ref.kind == "model")
    for source in CorpusReport.of(corpus).sources.values():
        for file in source.files:
            if wanted in (file.name, file.sha256) or Path(wanted).name == file.name:
                yield Reached(file.name, corpus, "read", f"{words.count(source.kept)} documents", models)
    for part, table in (("read", "documents"), ("held out", "heldout"), ("removed", "removed")):
        for row in _matching(corpus.file(f"{table}.parquet"), wanted):
            name = str(row.get("doc_id") or row.get("id"))
            yield Reached(name, corpus, part, str(row.get("reason", "")), models if part == "read" else ())


def _matching(table: Path, wanted: str) -> list[Mapping[str, Any]]:
    import pandas as pd

    frame = pd.read_parquet(table)
    names = frame["doc_id" if "doc_id" in frame else "id"]
    is_named = (names == wanted) | names.str.endswith(f"/{wanted}")
    found = frame[is_named] if is_named.any() else frame[frame["text"].str.contains(wanted, regex=False)]
    rows: list[Any] = found.drop(columns="text").to_dict("records")
    return rows


def _sources(catalogue: Catalogue, corpus: ArtifactRef) -> list[Node]:
    """Returns the sources of a corpus; one that was registered leads on to what was delivered."""
    places = catalogue.record(corpus)["lineage"]["sources"]
    registrations = {ref.path: ref for ref in catalogue.refs if ref.kind == "registration"}
    nodes = []
    for name, source in CorpusReport.of(corpus).sources.items():
        text = f"{source.pool} {name}: {words.count(source.kept)} read, {words.count(source.heldout)} held out"
        delivered = [
            registrations[str(Path(place).parent)] for place in places[name] if str(Path(place).parent) in registrations
        ]
        children = [_delivery(catalogue, ref) for ref in delivered] or [_file(file) for file in source.files]
        nodes.append(Node("source", text, catalogue.record(corpus)["inputs"][name], children=tuple(children)))
    return nodes


def _delivery(catalogue: Catalogue, ref: ArtifactRef) -> Node:
    record = catalogue.record(ref)
    name = record["metrics"]["name"]
    text = (
        f"registered as {name} on {record['created_at'][:10]}: {words.count(record['metrics']['documents'])} documents"
    )
    note = json.loads(ref.file("corpus.json").read_text(encoding="utf-8"))["note"]
    files = [_file(file) for source in CorpusReport.of(ref).sources.values() for file in source.files]
    return Node("registration", f"{text}{f' ({note})' if note else ''}", ref.digest, ref.path, tuple(files))


def _file(file: SourceFile) -> Node:
    return Node("file", f"{file.name} ({words.size(file.bytes)}, sha256 {file.sha256[:12]})", file.sha256)


def _line(ref: ArtifactRef, record: Mapping[str, Any], role: str) -> str:
    metrics = record["metrics"]
    match ref.kind:
        case "model":
            settings = record["settings"]
            stage = settings.get("stage", "model") if isinstance(settings, Mapping) else "model"
            steps = f", {words.count(metrics['steps'])} steps" if "steps" in metrics else ""
            title = f"{role} " if role == "base" else ""
            return f"{title}model {ref.digest[:12]} ({stage}{steps}, {record['created_at'][:10]})"
        case "mixture":
            return f"mixture of {words.count(metrics['total_tokens'])} tokens"
        case "selection":
            return "selection of samples for alignment"
        case _:
            return f"{ref.kind} {ref.digest[:12]}"
