"""Ancestry trees of models, down to the source files, and traces of documents to the models trained on them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from mixcpt.curation.corpus_report import CorpusReport, SourceFile
from mixcpt.report import words
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.lineage import Catalogue

_ROLES = ("base", "model", "mixture", "selection", "corpus", "cache")
"""Input roles shown in the tree, in display order; other inputs (probe, tokenizer) matter little."""
_TABLES = {"read": "documents", "held out": "heldout", "removed": "removed"}
"""Parquet table of a corpus for each part that a document can be in."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One artifact, source or file in an ancestry tree."""

    kind: str
    text: str
    """Description with the main numbers."""
    digest: str = ""
    path: str = ""
    children: Sequence["Node"] = ()

    def to_json(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if value and name != "children"}
        return own | ({"made_of": [child.to_json() for child in self.children]} if self.children else {})

    def to_tree(self) -> Tree:
        """Return the tree for a terminal."""
        tree = Tree(Text(words.printable(self.text)))
        for child in self.children:
            tree.add(child.to_tree())
        return tree


def ancestry_tree(catalogue: Catalogue, ref: ArtifactRef) -> Node:
    """Return the inputs of an artifact, recursively down to source files; repeated artifacts are not expanded again."""
    return _artifact_node(catalogue, ref, "", set())


def _artifact_node(catalogue: Catalogue, ref: ArtifactRef, role: str, expanded: set[str]) -> Node:
    record = catalogue.record(ref)
    text = _description(ref, record, role)
    if ref.fingerprint in expanded:
        return Node(kind=ref.kind, text=f"{text}, as above", digest=ref.digest, path=ref.path)
    expanded.add(ref.fingerprint)
    parents = catalogue.parents(ref)
    children = [_artifact_node(catalogue, parents[name], name, expanded) for name in _ROLES if name in parents]
    if ref.kind == "corpus":
        children += _source_nodes(catalogue, ref)
    if "base" in record["inputs"] and "base" not in parents:
        name = record["lineage"].get("base", "base model")
        children.insert(0, Node(kind="base", text=f"base model {name}", digest=record["inputs"]["base"]))
    return Node(kind=ref.kind, text=text, digest=ref.digest, path=ref.path, children=tuple(children))


def _source_nodes(catalogue: Catalogue, corpus: ArtifactRef) -> list[Node]:
    """Return the sources of a corpus; the children of a registered source are its registrations."""
    record = catalogue.record(corpus)
    registrations = {ref.path: ref for ref in catalogue.refs if ref.kind == "registration"}
    nodes = []
    for name, source in CorpusReport.of(corpus).sources.items():
        folders = [str(Path(file).parent) for file in record["lineage"]["sources"][name]]
        registered = [registrations[folder] for folder in folders if folder in registrations]
        children = [_registration_node(catalogue, ref) for ref in registered] or _file_nodes(source.files)
        text = f"{source.pool} {name}: {words.count(source.kept)} read, {words.count(source.heldout)} held out"
        nodes.append(Node(kind="source", text=text, digest=record["inputs"][name], children=tuple(children)))
    return nodes


def _registration_node(catalogue: Catalogue, ref: ArtifactRef) -> Node:
    record = catalogue.record(ref)
    metrics, day = record["metrics"], record["created_at"][:10]
    text = f"registered as {metrics['name']} on {day}: {words.count(metrics['documents'])} documents"
    note = json.loads(ref.file("corpus.json").read_text(encoding="utf-8"))["note"]
    files = chain.from_iterable(source.files for source in CorpusReport.of(ref).sources.values())
    return Node(
        kind="registration",
        text=f"{text} ({note})" if note else text,
        digest=ref.digest,
        path=ref.path,
        children=tuple(_file_nodes(files)),
    )


def _file_nodes(files: Iterable[SourceFile]) -> list[Node]:
    return [
        Node(kind="file", text=f"{file.name} ({words.size(file.bytes)}, sha256 {file.sha256[:12]})", digest=file.sha256)
        for file in files
    ]


def _description(ref: ArtifactRef, record: Mapping[str, Any], role: str) -> str:
    metrics = record["metrics"]
    match ref.kind:
        case "model":
            settings = record["settings"]
            stage = settings.get("stage", "model") if isinstance(settings, Mapping) else "model"
            steps = f", {words.count(metrics['steps'])} steps" if "steps" in metrics else ""
            prefix = f"{role} " if role == "base" else ""
            return f"{prefix}model {ref.digest[:12]} ({stage}{steps}, {record['created_at'][:10]})"
        case "rewritten":
            return f"corpus with {words.count(metrics['accepted'])} generated texts"
        case "mixture":
            return f"mixture of {words.count(metrics['total_tokens'])} tokens"
        case "selection":
            return "selection of samples for alignment"
        case _:
            return f"{ref.kind} {ref.digest[:12]}"


def runs_of(catalogue: Catalogue, model: ArtifactRef) -> list[str]:
    """Return the names of the runs that contain a model, oldest first."""
    runs = [ref for ref in catalogue.children(model) if ref.kind == "run"]
    return list(dict.fromkeys(str(catalogue.record(ref)["metrics"]["name"]) for ref in runs))


@dataclass(frozen=True, kw_only=True)
class DocumentTrace:
    """A document or a whole file in one corpus, with the models trained on it."""

    document: str
    """Identifier of the document in the corpus, or name of the file."""
    corpus: ArtifactRef
    part: str
    """`read` if training could read the document; otherwise `held out` or `removed`."""
    reason: str
    models: tuple[ArtifactRef, ...]
    """Models made of the corpus; empty if training could not read the document."""

    def to_json(self, catalogue: Catalogue) -> dict[str, Any]:
        models = [{"digest": ref.digest, "path": ref.path, "runs": runs_of(catalogue, ref)} for ref in self.models]
        return {"document": self.document, "part": self.part, "corpus": self.corpus.digest, "models": models}

    def to_tree(self, catalogue: Catalogue) -> Tree:
        """Return the tree for a terminal: the models with their runs."""
        reason = f" ({self.reason})" if self.reason else ""
        is_waiting = self.corpus.kind == "registration"
        place = "the registered corpus, which waits for its round," if is_waiting else "corpus"
        text = f"{self.document}: {self.part}{reason} in {place} {self.corpus.digest[:12]}"
        tree = Tree(Text(words.printable(text)))
        for ref in self.models:
            description = _description(ref, catalogue.record(ref), "")
            runs = words.listing(runs_of(catalogue, ref)) or "no run"
            tree.add(Text(words.printable(f"{description} in {runs}")))
        return tree


def trace_document(catalogue: Catalogue, query: str) -> list[DocumentTrace]:
    """Return every corpus that contains a document, with the models trained on it.

    Registered corpora that wait for their round are searched too; no model is made of them yet.

    Args:
        catalogue: Artifacts of the store.
        query: Identifier of the document, name or path of its file, or words of its text.
    """
    corpora = [ref for ref in catalogue.refs if ref.kind == "corpus"]
    curated_folders = set()
    for corpus in corpora:
        for files in catalogue.record(corpus)["lineage"]["sources"].values():
            curated_folders |= {str(Path(file).parent) for file in files}
    registrations = [ref for ref in catalogue.refs if ref.kind == "registration"]
    waiting = [ref for ref in registrations if ref.path not in curated_folders]
    return list(chain.from_iterable(_traces(catalogue, corpus, query) for corpus in [*corpora, *waiting]))


def _traces(catalogue: Catalogue, corpus: ArtifactRef, query: str) -> Iterator[DocumentTrace]:
    models = tuple(ref for ref in catalogue.descendants(corpus) if ref.kind == "model")
    for source in CorpusReport.of(corpus).sources.values():
        for file in source.files:
            if query in (file.name, file.sha256) or Path(query).name == file.name:
                kept = f"{words.count(source.kept)} documents"
                yield DocumentTrace(document=file.name, corpus=corpus, part="read", reason=kept, models=models)
    for part, table in _TABLES.items():
        for row in _matching_rows(corpus.file(f"{table}.parquet"), query):
            yield DocumentTrace(
                document=str(row.get("doc_id") or row.get("id")),
                corpus=corpus,
                part=part,
                reason=str(row.get("reason", "")),
                models=models if part == "read" else (),
            )


def _matching_rows(table: Path, query: str) -> list[Mapping[str, Any]]:
    import pandas as pd

    frame = pd.read_parquet(table)
    names = frame["doc_id" if "doc_id" in frame else "id"]
    is_named = (names == query) | names.str.endswith(f"/{query}")
    # words of the text only count if no identifier matches
    matches = frame[is_named] if is_named.any() else frame[frame["text"].str.contains(query, regex=False)]
    rows: list[Any] = matches.drop(columns="text").to_dict("records")
    return rows
