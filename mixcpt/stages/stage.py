"""A kind of work: one entry of the table of stages (`mixcpt.stages.registry`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker

if TYPE_CHECKING:
    from mixcpt.stages.jobs import Job

KeyFunction = Callable[["Job"], StageKey]
RunFunction = Callable[["Job", ArtifactStore, Tracker], ArtifactRef]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Definition of a kind of work.

    The two functions are import strings, so that the table imports no package of a stage. This keeps it cheap to read
    and avoids import cycles.
    """

    name: str
    """Name in jobs and MLflow: `pretrain`."""
    role: str
    """Name of its artifact in a run's record and in reports: `pretrained`."""
    title: str
    """Name in sentences and headings: `pre-training`."""
    kind: str
    """Kind of artifact that it publishes: `model`."""
    inputs: tuple[str, ...]
    """Roles of the inputs that a job must have; their digests are part of the key."""
    needs_gpu: bool
    """Whether it computes on a GPU if the machine has one."""
    needs_torch: bool = True
    """Whether it imports torch, which takes seconds."""
    key: str
    """`module:function` that maps a job to its `StageKey`; must import neither torch nor transformers."""
    run: str
    """`module:function` that maps a job, a store and a tracker to the published artifact."""

    def key_of(self, job: "Job") -> StageKey:
        """Return the identity of a job's result; cheap enough for a lookup."""
        compute_key: KeyFunction = resolve_name(self.key)
        return compute_key(job)

    def run_job(self, job: "Job", store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
        """Run a job, or find its result in the store, and return its reference."""
        run: RunFunction = resolve_name(self.run)
        return run(job, store, tracker)
