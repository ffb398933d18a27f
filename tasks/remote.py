"""Stages that another work pool runs: handed over as a flow run of its own, waited for, and found in the store."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from mixcpt.config import StageGroupConfig
from mixcpt.errors import ConfigError, MixcptError, StageInterrupted
from mixcpt.stages.jobs import Job
from tasks.adaptation import Adaptation

FLOW = "stage-group"
"""The flow that runs them; its deployment has the name of its pool."""
_POLL_SECONDS = 2.0


def run_remotely(
    adaptation: Adaptation, jobs: Sequence[Job], cancelled: Callable[[], bool], *, distributed: bool
) -> None:
    """Returns when a worker of the run's GPU pool has put the artifacts of all jobs into the store.

    Raises:
        ConfigError: If the pool has no deployment of the flow `station`.
        StageInterrupted: If that flow run died; trying again resumes.
        MixcptError: With the message of that flow run, if it failed.
    """
    pool = adaptation.config.runtime.gpu_pool
    request = StageGroupConfig(
        adapt=adaptation.config,
        base=adaptation.base.to_json(),
        run_id=adaptation.run_id,
        root_flow_run_id=adaptation.root_flow_run_id,
        jobs=tuple(job.to_json() for job in jobs),
        distributed=distributed,
    )
    name = f"{adaptation.config.name}: {', '.join(job.name for job in jobs)}"
    try:
        parameters = {"config": request.model_dump(mode="json")}
        started = run_deployment(f"{FLOW}/{pool}", flow_run_name=name, parameters=parameters, timeout=0)
    except ObjectNotFound:
        hint = f"make it known: mixcpt deploy --gpu-pool {pool}"
        raise ConfigError(f"runtime.gpu_pool is {pool!r}, and no deployment {FLOW}/{pool} is known", hint) from None
    state = _wait(cast(FlowRun, started), cancelled)  # it is a coroutine in an asynchronous flow alone
    if not state.is_completed():
        error = StageInterrupted if state.is_crashed() else MixcptError
        raise error(f"{name}, on the work pool {pool}, ended as {state.name}: {state.message or 'no reason was given'}")


def _wait(flow_run: FlowRun, cancelled: Callable[[], bool]) -> State[object]:
    """Returns the final state of a flow run; ends it where the one that waits is ended."""
    try:
        while not cancelled():
            state = state_of(flow_run.id)
            if state and state.is_final():
                return state
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _cancel(flow_run.id)
        raise
    _cancel(flow_run.id)
    raise MixcptError(f"{flow_run.name} was stopped with the flow run that waited for it")


def state_of(flow_run: UUID) -> "State[object] | None":
    """Returns the state of a flow run; none while the server is away.

    Raises:
        ObjectNotFound: If the server knows no such flow run.
    """
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run).state
    except httpx.HTTPError:
        return None


def _cancel(flow_run: UUID) -> None:
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:  # what ended the wait is to be told
        client.set_flow_run_state(flow_run, Cancelling())
