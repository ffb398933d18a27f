"""Stages of an adaptation whose flow runs on another machine: started by that flow, on the work pool with the GPUs."""

from prefect import flow

from mixcpt.config import StageGroupConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation, part_of
from tasks.hooks import remember_process
from tasks.stage_groups import run_stage_group
from tasks.stages import stage_task
from tasks.watching import wait_until_recorded


@flow(name="stage-group", flow_run_name="{config.adapt.name}: stage group", on_running=[remember_process])
def stage_group(config: StageGroupConfig = StageGroupConfig()) -> None:  # noqa: B008 the form shows the default
    """Run the stages that another flow run handed over; that flow run then finds their artifacts in the store."""
    adaptation = part_of(config.adapt, ModelRef.from_json(config.base), config.run_id, config.root_flow_run_id)
    _run_stages(adaptation, config)


@stage_task("stages")
def _run_stages(adaptation: Adaptation, config: StageGroupConfig) -> None:
    run_stage_group(adaptation, [Job.from_json(job) for job in config.jobs], distributed=config.distributed)
    wait_until_recorded(adaptation)  # the waiting flow queries MLflow next
