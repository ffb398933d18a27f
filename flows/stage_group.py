"""Runs stages on a GPU work pool for an adaptation whose flow runs on another machine."""

from prefect import flow

from mixcpt.config import StageGroupConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation, join_adaptation
from tasks.hooks import label_process
from tasks.stage_groups import run_stage_group
from tasks.stages import stage_task
from tasks.watching import wait_until_recorded


@flow(name="stage-group", flow_run_name="{config.adapt.name}: stage group", on_running=[label_process])
def stage_group(config: StageGroupConfig = StageGroupConfig()) -> None:  # noqa: B008 the form shows the default
    """Run stages for another flow run, which then reads their artifacts from the store."""
    base = ModelRef.from_json(config.base)
    adaptation = join_adaptation(config.adapt, base, config.run_id, root_flow_run_id=config.root_flow_run_id)
    _run_stages(adaptation, config)


@stage_task("stages")
def _run_stages(adaptation: Adaptation, config: StageGroupConfig) -> None:
    run_stage_group(adaptation, [Job.from_json(job) for job in config.jobs], distributed=config.distributed)
    wait_until_recorded(adaptation)  # the waiting flow queries MLflow next
