"""Stages of an adaptation whose flow runs elsewhere: started by it, on the work pool of the machines with GPUs."""

from prefect import flow, task

from mixcpt.config import StageGroupConfig
from mixcpt.stages.jobs import Job
from mixcpt.store.models import ModelRef
from tasks.adaptation import Adaptation, part_of
from tasks.hooks import remember_process
from tasks.stage_groups import run_stage_group, worth_retrying
from tasks.watching import recorded


@flow(name="station", flow_run_name="{config.adapt.name}: station", on_running=[remember_process])
def station(config: StageGroupConfig = StageGroupConfig()) -> None:  # noqa: B008 the form shows the default
    """Run the stages that another flow run has handed over; it finds what they make in the store."""
    adaptation = part_of(config.adapt, ModelRef.from_json(config.base), config.run_id, config.root_flow_run_id)
    _stages.with_options(retries=config.adapt.runtime.retries)(adaptation, config)


@task(name="stages", retry_condition_fn=worth_retrying, retry_delay_seconds=5)
def _stages(adaptation: Adaptation, config: StageGroupConfig) -> None:
    run_stage_group(adaptation, [Job.from_json(job) for job in config.jobs], distributed=config.distributed)
    recorded(adaptation)  # the flow that waits for this one asks MLflow next
