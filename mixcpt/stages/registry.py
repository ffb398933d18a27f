"""The table of stages, in the order in which an adaptation runs them, and the lookup of results in the store.

A new stage is an entry here, or an entry point of an installed package in the group `mixcpt.stages` that refers to a
`Stage`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pkgutil import resolve_name

from mixcpt.errors import ConfigError
from mixcpt.stages.jobs import Job, Output
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.spool import Tracker

KeyFunction = Callable[[Job], StageKey]
RunFunction = Callable[[Job, ArtifactStore, Tracker], ArtifactRef]


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
    needs_gpu: bool = True
    """Whether it computes on a GPU if the machine has one."""
    needs_torch: bool = True
    """Whether it imports torch, which takes seconds."""
    key: str
    """`module:function` that maps a job to its `StageKey`; must import neither torch nor transformers."""
    run: str
    """`module:function` that maps a job, a store and a tracker to the published artifact."""

    def key_of(self, job: Job) -> StageKey:
        """Return the identity of a job's result; cheap enough for a lookup."""
        compute_key: KeyFunction = resolve_name(self.key)
        return compute_key(job)

    def run_job(self, job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
        """Run a job, or find its result in the store, and return its reference."""
        run: RunFunction = resolve_name(self.run)
        return run(job, store, tracker)


ENTRY_POINTS = "mixcpt.stages"

STAGES = (
    Stage(
        name="curate",
        role="corpus",
        title="curation",
        kind="corpus",
        inputs=(),
        needs_gpu=False,
        needs_torch=False,
        key="mixcpt.curation.stage:job_key",
        run="mixcpt.curation.stage:run_job",
    ),
    Stage(
        name="plan",
        role="plan",
        title="estimate",
        kind="plan",
        inputs=("corpus", "base"),
        needs_gpu=False,
        key="mixcpt.records.plan:job_key",
        run="mixcpt.planning.stage:run_job",
    ),
    Stage(
        name="rewrite",
        role="rewritten",
        title="rewriting",
        kind="rewritten",
        inputs=("corpus", "base"),
        key="mixcpt.rewrite.stage:job_key",
        run="mixcpt.rewrite.stage:run_job",
    ),
    Stage(
        name="mix",
        role="mixture",
        title="mixing",
        kind="mixture",
        inputs=("corpus", "base"),
        needs_gpu=False,
        key="mixcpt.mixture.stage:job_key",
        run="mixcpt.mixture.stage:run_job",
    ),
    Stage(
        name="cache",
        role="teacher",
        title="teacher cache",
        kind="teacher",
        inputs=("mixture", "base"),
        key="mixcpt.distill.stage:job_key",
        run="mixcpt.distill.stage:run_job",
    ),
    Stage(
        name="probe",
        role="probe",
        title="probe",
        kind="probe",
        inputs=("base", "corpus"),
        key="mixcpt.evaluate.probe:job_key",
        run="mixcpt.evaluate.probe:run_job",
    ),
    Stage(
        name="pretrain",
        role="pretrained",
        title="pre-training",
        kind="model",
        inputs=("mixture", "base"),
        key="mixcpt.train.stage:job_key",
        run="mixcpt.evaluate.probed_training:run_job",
    ),
    Stage(
        name="select",
        role="selection",
        title="selection",
        kind="selection",
        inputs=("corpus", "model"),
        key="mixcpt.align.stage:select_job_key",
        run="mixcpt.align.stage:run_select_job",
    ),
    Stage(
        name="sft",
        role="sft",
        title="SFT",
        kind="model",
        inputs=("selection", "model"),
        key="mixcpt.align.stage:finetuning_job_key",
        run="mixcpt.align.stage:run_finetuning_job",
    ),
    Stage(
        name="dpo",
        role="dpo",
        title="DPO",
        kind="model",
        inputs=("selection", "model"),
        key="mixcpt.align.stage:finetuning_job_key",
        run="mixcpt.align.stage:run_finetuning_job",
    ),
    Stage(
        name="evaluate",
        role="evaluation",
        title="evaluation",
        kind="evaluation",
        inputs=("model", "corpus"),
        key="mixcpt.evaluate.stage:job_key",
        run="mixcpt.evaluate.stage:run_job",
    ),
    Stage(
        name="smoke",
        role="smoke",
        title="smoke test",
        kind="smoke",
        inputs=("model", "recorded", "corpus"),
        key="mixcpt.evaluate.smoke:job_key",
        run="mixcpt.evaluate.smoke:run_job",
    ),
)


@cache
def all_stages() -> tuple[Stage, ...]:
    """Return the stages of this table and of installed packages."""
    return (*STAGES, *(entry_point.load() for entry_point in entry_points(group=ENTRY_POINTS)))


def find_stage(name: str) -> Stage:
    """Return the stage of this name.

    Raises:
        ConfigError: If there is none.
    """
    for stage in all_stages():
        if stage.name == name:
            return stage
    known = ", ".join(stage.name for stage in all_stages())
    raise ConfigError(f"there is no stage {name!r}; the stages are {known}")


def run_roles() -> tuple[str, ...]:
    """Return the roles of a run's artifacts, in the order of their stages."""
    return tuple(stage.role for stage in all_stages() if stage.kind not in ("evaluation", "plan", "smoke"))


def trained_roles() -> tuple[str, ...]:
    """Return the roles of the models that a run trains, in the order of their stages."""
    return tuple(stage.role for stage in all_stages() if stage.kind == "model")


def title_of(role: str) -> str:
    """Return the title of the stage that publishes the artifact of a role; the role itself if there is none."""
    return next((stage.title for stage in all_stages() if stage.role == role), role)


def lookup(job: Job, store: ArtifactStore) -> ArtifactRef | StageKey:
    """Return the artifact of a job whose inputs are known, or the key under which it would be published."""
    key = find_stage(job.stage).key_of(job)
    return store.find(key.kind, key.fingerprint) or key


def split_finished(jobs: Sequence[Job], store: ArtifactStore) -> tuple[dict[str, ArtifactRef], list[Job]]:
    """Return the artifacts of finished jobs by name, and the other jobs with all known inputs filled in."""
    results: dict[str, ArtifactRef] = {}
    missing: list[Job] = []
    for job in jobs:
        known = job.resolve(results)
        has_all_inputs = not any(isinstance(value, Output) for value in known.inputs.values())
        if has_all_inputs and isinstance(ref := lookup(known, store), ArtifactRef):
            results[job.name] = ref
        else:
            missing.append(known)
    return results, missing
