"""Lineage: find the inputs and the products of every artifact of a store, from documents to models and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import digest_as_base

_EVALUATIONS = ("evaluation", "probe")
"""Kinds of artifacts that are made from a model but are not part of later models."""


class Catalogue:
    """All artifacts of a store with their records; reads no other files."""

    def __init__(self, store: ArtifactStore) -> None:
        self.refs = store.survey()
        self._records = {ref.fingerprint: ref.record for ref in self.refs}
        self._places = {ref.fingerprint: place for place, ref in enumerate(self.refs)}

    def record(self, ref: ArtifactRef) -> Mapping[str, Any]:
        return self._records[ref.fingerprint]

    def find(self, digest: str) -> ArtifactRef | None:
        """Return the newest artifact with this digest, or None; a model is also found by its digest as a base model."""
        return next(reversed(self._by_digest.get(digest, ())), None)

    def parents(self, ref: ArtifactRef) -> dict[str, ArtifactRef]:
        """Return the inputs of an artifact by role; inputs that are not artifacts, such as files, are left out."""
        inputs = self.record(ref)["inputs"].items()
        parents = {role: self._newest_before(ref, self._by_digest.get(digest, ())) for role, digest in inputs}
        return {role: parent for role, parent in parents.items() if parent is not None}

    def children(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Return the artifacts made from an artifact."""
        return self._children.get(ref.fingerprint, [])

    def ancestors(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Return the artifact and all artifacts that it was made from, except evaluations, nearest first."""
        return list(_reachable(ref, self._parents_except_evaluations))

    def descendants(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Return the artifact and all artifacts made from it, nearest first."""
        return list(_reachable(ref, self.children))

    def texts_read(self, model: ArtifactRef) -> dict[str, str]:
        """Return the content digests of all sources that a model was trained on, by name of the source."""
        texts: dict[str, str] = {}
        for ref in reversed(self.ancestors(model)):
            if ref.kind == "corpus":
                texts |= self.record(ref)["inputs"]
        return texts

    def _parents_except_evaluations(self, ref: ArtifactRef) -> list[ArtifactRef]:
        return [parent for parent in self.parents(ref).values() if parent.kind not in _EVALUATIONS]

    def _newest_before(self, ref: ArtifactRef, equal_refs: Sequence[ArtifactRef]) -> ArtifactRef | None:
        """Return the newest of some artifacts of equal content that is older than `ref`, or None."""
        place = self._places[ref.fingerprint]
        return next((equal for equal in reversed(equal_refs) if self._places[equal.fingerprint] < place), None)

    @cached_property
    def _by_digest(self) -> dict[str, list[ArtifactRef]]:
        """Artifacts by digest, oldest first; two trainings can end with equal weights."""
        refs: dict[str, list[ArtifactRef]] = {}
        for ref in self.refs:
            for digest in {ref.digest, digest_as_base(ref) if ref.kind == "model" else ref.digest}:
                refs.setdefault(digest, []).append(ref)
        return refs

    @cached_property
    def _children(self) -> dict[str, list[ArtifactRef]]:
        children: dict[str, list[ArtifactRef]] = {}
        for ref in self.refs:
            for parent in self.parents(ref).values():
                children.setdefault(parent.fingerprint, []).append(ref)
        return children


def _reachable(start: ArtifactRef, step: Callable[[ArtifactRef], Iterable[ArtifactRef]]) -> Iterator[ArtifactRef]:
    """Yield the start and all artifacts that repeated steps reach, each once, nearest first."""
    seen, frontier = {start.fingerprint}, [start]
    while frontier:
        yield from frontier
        reached = {ref.fingerprint: ref for ref in chain.from_iterable(map(step, frontier))}
        frontier = [ref for identity, ref in reached.items() if identity not in seen]
        seen.update(reached)
