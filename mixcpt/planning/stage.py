"""The plan of a run: counted, reckoned, where wanted tried out, and kept in the store."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mixcpt.config import AdaptConfig
from mixcpt.errors import MixcptError
from mixcpt.planning import estimates as reckoning
from mixcpt.planning import extrapolation
from mixcpt.planning.devices import free_disk_bytes, ram_bytes, this_machine
from mixcpt.planning.dry_run import OnStage, run_dry_run
from mixcpt.planning.load import Load, load_of_corpus
from mixcpt.planning.warnings import misfits
from mixcpt.records.plan import Device, Plan, plan_key, save_plan
from mixcpt.records.run import run_identity
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef

_log = logging.getLogger("mixcpt.planning")


def plan_from_corpus(config: AdaptConfig, base: ModelRef, corpus: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """Returns the plan of a run on this machine, reckoned without a trial in a second or two.

    A run that cannot be planned is no worse for it: then the artifact is empty, and the log says why.
    """
    identity = run_identity(config, base, corpus.fingerprint)
    inputs = {"corpus": corpus.digest, "base": base.digest}
    runtime = config.runtime

    def make() -> Plan | None:
        try:
            load = load_of_corpus(config, base, corpus, store)
        except MixcptError as error:
            _log.warning("the run is not planned: %s", error)
            return None
        return analytic_plan(load, this_machine(runtime, config.pretrain.precision))

    return save_plan(store, plan_key(identity, inputs, "", runtime.num_processes), make)


def analytic_plan(load: Load, device: Device, *, price_per_hour: float = 0.0) -> Plan:
    """Returns the plan by formulas: operations over an assumed speed, memory over the model's shape."""
    config = load.config
    memory = reckoning.memories(load, device)
    disk = reckoning.disk(load, free_disk_bytes(Path(config.runtime.store)))
    host = reckoning.host_bytes(load, device, memory[0])
    ram = ram_bytes() if device.is_here else 0
    return Plan(
        name=config.name,
        basis="analytic",
        device=device,
        num_parameters=load.shape.num_parameters,
        num_trained_parameters=load.shape.num_trained,
        sources=load.reading.sources,
        stages=reckoning.stages(load, device),
        memory=memory,
        disk=disk,
        ram_bytes=host,
        start_seconds=reckoning.start_seconds(load, device),
        price_per_hour=price_per_hour,
        warnings=misfits(load, device, memory, disk, host, ram),
    )


def tried_plan(load: Load, device: Device, *, price_per_hour: float = 0.0, on_stage: OnStage) -> Plan:
    """Returns the plan with time and memory as a trial on this machine measured them.

    Raises:
        MixcptError: What a stage of the trial raised.
    """
    plan = analytic_plan(load, device, price_per_hour=price_per_hour)
    trial = run_dry_run(load, on_stage)
    stages = extrapolation.extrapolated(plan.stages, load, trial)
    by_stage = {stage.stage: stage for stage in stages}
    memory = tuple(extrapolation.memory_of_trial(parts, by_stage[parts.stage], device) for parts in plan.memory)
    host = reckoning.host_bytes(load, device, memory[0])
    ram = ram_bytes()
    return replace(
        plan,
        basis="trial",
        stages=stages,
        memory=memory,
        ram_bytes=host,
        start_seconds=extrapolation.start_seconds(load, trial),
        warnings=misfits(load, device, memory, plan.disk, host, ram),
    )


def keep_plan(store: ArtifactStore, load: Load, plan: Plan) -> ArtifactRef:
    """Returns the plan published in the store of the run that it is of."""
    identity = run_identity(load.config, load.base, load.corpus_key)
    inputs = {"base": load.base.digest} | ({"corpus": load.corpus.digest} if load.corpus else {})
    now = datetime.now(UTC).isoformat()
    key = plan_key(identity, inputs, plan.device.name, plan.device.count, measured_at=now)
    return save_plan(store, key, lambda: plan)
