"""The plan of a run: estimated by formulas or measured by a dry run, and published in the store."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mixcpt.config import AdaptConfig
from mixcpt.errors import MixcptError
from mixcpt.planning import estimates, extrapolation
from mixcpt.planning.devices import free_disk_bytes, ram_bytes, this_machine
from mixcpt.planning.dry_run import OnStage, run_dry_run
from mixcpt.planning.load import Load, count_corpus_load
from mixcpt.planning.warnings import fit_warnings
from mixcpt.records.plan import Device, Plan, key_of_estimate, plan_key, save_plan
from mixcpt.records.run import run_identity
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import Tracker

_log = logging.getLogger("mixcpt.planning")


def plan_from_corpus(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """Estimate the cost of a run on this machine, in a second or two, and publish the plan.

    An error of the estimate does not stop the run: the artifact is then empty, and the log has the reason.
    """

    def make() -> Plan | None:
        try:
            load = count_corpus_load(config, base, corpus, store)
        except MixcptError as error:
            _log.warning("the cost of the run cannot be estimated: %s", error)
            return None
        return estimated_plan(load, this_machine(config.runtime, config.pretrain.precision))

    return save_plan(store, key_of_estimate(config, base, corpus), make)


def estimated_plan(load: Load, device: Device, *, price_per_hour: float = 0.0) -> Plan:
    """Return the plan by formulas: time from operations and an assumed speed, memory from the shape of the model."""
    config = load.config
    memory = estimates.estimate_memory(load, device)
    plan = Plan(
        name=config.name,
        basis="analytic",
        device=device,
        num_parameters=load.student.num_parameters,
        num_trained_parameters=load.student.num_trained,
        sources=load.workload.sources,
        stages=estimates.estimate_stages(load, device),
        memory=memory,
        disk=estimates.estimate_disk(load, free_disk_bytes(Path(config.runtime.store))),
        ram_bytes=estimates.estimate_host_memory(load, device, memory[0]),
        start_seconds=estimates.estimate_start_seconds(load, device),
        price_per_hour=price_per_hour,
    )
    return replace(plan, warnings=fit_warnings(load, plan, ram_bytes() if device.is_here else 0))


def measured_plan(load: Load, device: Device, *, price_per_hour: float = 0.0, on_stage: OnStage) -> Plan:
    """Run a dry run on this machine and return the plan with time and memory extrapolated from it.

    Raises:
        MixcptError: If a stage of the dry run fails.
    """
    estimate = estimated_plan(load, device, price_per_hour=price_per_hour)
    dry_run = run_dry_run(load, on_stage)
    stages = extrapolation.extrapolate(estimate.stages, load, dry_run)
    by_stage = {stage.stage: stage for stage in stages}
    memory = tuple(extrapolation.measured_memory(parts, by_stage[parts.stage], device) for parts in estimate.memory)
    plan = replace(
        estimate,
        basis="dry run",
        stages=stages,
        memory=memory,
        ram_bytes=estimates.estimate_host_memory(load, device, memory[0]),
        start_seconds=extrapolation.measured_start_seconds(dry_run),
    )
    return replace(plan, warnings=fit_warnings(load, plan, ram_bytes()))


def keep_plan(store: ArtifactStore, load: Load, plan: Plan) -> ArtifactRef:
    """Publish a plan in the store of its run and return its reference."""
    identity = run_identity(load.config, load.base, load.corpus_key)
    inputs = {"base": load.base.digest} | ({"corpus": load.corpus.digest} if load.corpus else {})
    now = datetime.now(UTC).isoformat()
    key = plan_key(identity, inputs, plan.device.name, plan.device.count, measured_at=now)
    return save_plan(store, key, lambda: plan)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `plan`."""
    return plan_from_corpus(AdaptConfig.model_validate(job.config), job.model("base"), job.artifact("corpus"), store)
