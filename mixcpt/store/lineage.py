"""What was made of what: the artifacts of a store by their inputs, back to the documents and forward to the models."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import digest_as_base

_EVALUATIONS = ("evaluation", "probe")
"""What asks a model and does not make one."""


class Catalogue:
    """Every artifact of a store, by the records alone."""

    def __init__(self, store: ArtifactStore) -> None:
        self.refs = store.survey()
        self._records = {ref.fingerprint: ref.record for ref in self.refs}

    def record(self, ref: ArtifactRef) -> Mapping[str, Any]:
        return self._records[ref.fingerprint]

    def find(self, digest: str) -> ArtifactRef | None:
        """Returns the artifact with this content; a model also by the digest that it has as the base of another."""
        return next(reversed(self._by_digest.get(digest, ())), None)

    def parents(self, ref: ArtifactRef) -> dict[str, ArtifactRef]:
        """Returns what an artifact was made of, by role; what is no artifact, such as a file, is not among it."""
        inputs = self.record(ref)["inputs"].items()
        found = {role: self._made_before(ref, self._by_digest.get(digest, ())) for role, digest in inputs}
        return {role: parent for role, parent in found.items() if parent is not None}

    def children(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Returns what was made of an artifact."""
        return self._children.get(ref.fingerprint, [])

    def ancestors(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Returns the artifact and all that it was made of, nearest first; no evaluation is among its makers."""
        return list(_reached(ref, self._makers))

    def descendants(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Returns the artifact and all that was made of it, nearest first."""
        return list(_reached(ref, self.children))

    def texts_read(self, model: ArtifactRef) -> dict[str, str]:
        """Returns the content digest of every source of every corpus that a model was made of, by its name."""
        corpora = [ref for ref in self.ancestors(model) if ref.kind == "corpus"]
        return {name: digest for corpus in reversed(corpora) for name, digest in self.record(corpus)["inputs"].items()}

    def _makers(self, ref: ArtifactRef) -> Iterable[ArtifactRef]:
        return (parent for parent in self.parents(ref).values() if parent.kind not in _EVALUATIONS)

    def _made_before(self, ref: ArtifactRef, same: Sequence[ArtifactRef]) -> ArtifactRef | None:
        """Returns the newest of some artifacts of the same content that was there when `ref` was made."""
        place = self._places[ref.fingerprint]
        return next((each for each in reversed(same) if self._places[each.fingerprint] < place), None)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {ref.fingerprint: place for place, ref in enumerate(self.refs)}

    @cached_property
    def _by_digest(self) -> dict[str, list[ArtifactRef]]:
        """All artifacts of one content, oldest first: two trainings may end in the same weights."""
        found: dict[str, list[ArtifactRef]] = {}
        for ref in self.refs:
            for digest in {ref.digest, digest_as_base(ref) if ref.kind == "model" else ref.digest}:
                found.setdefault(digest, []).append(ref)
        return found

    @cached_property
    def _children(self) -> dict[str, list[ArtifactRef]]:
        children: dict[str, list[ArtifactRef]] = {}
        for ref in self.refs:
            for parent in self.parents(ref).values():
                children.setdefault(parent.fingerprint, []).append(ref)
        return children


def _reached(start: ArtifactRef, step: Callable[[ArtifactRef], Iterable[ArtifactRef]]) -> Iterator[ArtifactRef]:
    """Yields what steps lead to, each once, nearest first."""
    seen, frontier = {start.fingerprint}, [start]
    while frontier:
        yield from frontier
        reached = [each for ref in frontier for each in step(ref)]
        frontier = list({each.fingerprint: each for each in reached if each.fingerprint not in seen}.values())
        seen |= {each.fingerprint for each in frontier}
