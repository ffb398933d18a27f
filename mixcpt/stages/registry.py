"""The table of stages, in the order in which an adaptation runs them.

A new stage is an entry here, or an entry point of an installed package in the group `mixcpt.stages` that refers to a
`Stage`.
"""

from functools import cache
from importlib.metadata import entry_points

from mixcpt.errors import ConfigError
from mixcpt.stages.stage import Stage

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
        needs_gpu=True,
        key="mixcpt.distill.stage:job_key",
        run="mixcpt.distill.stage:run_job",
    ),
    Stage(
        name="probe",
        role="probe",
        title="probe",
        kind="probe",
        inputs=("base", "corpus"),
        needs_gpu=True,
        key="mixcpt.evaluate.probe:job_key",
        run="mixcpt.evaluate.probe:run_job",
    ),
    Stage(
        name="pretrain",
        role="pretrained",
        title="pre-training",
        kind="model",
        inputs=("mixture", "base"),
        needs_gpu=True,
        key="mixcpt.train.stage:job_key",
        run="mixcpt.evaluate.probed_training:run_job",
    ),
    Stage(
        name="select",
        role="selection",
        title="selection",
        kind="selection",
        inputs=("corpus", "model"),
        needs_gpu=True,
        key="mixcpt.align.stage:select_job_key",
        run="mixcpt.align.stage:run_select_job",
    ),
    Stage(
        name="sft",
        role="sft",
        title="SFT",
        kind="model",
        inputs=("selection", "model"),
        needs_gpu=True,
        key="mixcpt.align.stage:sft_job_key",
        run="mixcpt.align.stage:run_sft_job",
    ),
    Stage(
        name="dpo",
        role="dpo",
        title="DPO",
        kind="model",
        inputs=("selection", "model"),
        needs_gpu=True,
        key="mixcpt.align.stage:dpo_job_key",
        run="mixcpt.align.stage:run_dpo_job",
    ),
    Stage(
        name="evaluate",
        role="evaluation",
        title="evaluation",
        kind="evaluation",
        inputs=("model", "corpus"),
        needs_gpu=True,
        key="mixcpt.evaluate.stage:job_key",
        run="mixcpt.evaluate.stage:run_job",
    ),
    Stage(
        name="smoke",
        role="smoke",
        title="smoke test",
        kind="smoke",
        inputs=("model", "recorded", "corpus"),
        needs_gpu=True,
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


def stage_of(role: str) -> Stage | None:
    """Return the stage that publishes the artifact of a role; None if there is none."""
    return next((stage for stage in all_stages() if stage.role == role), None)


def title_of(role: str) -> str:
    """Return the title of the stage that publishes the artifact of a role; the role itself if there is none."""
    stage = stage_of(role)
    return stage.title if stage else role
