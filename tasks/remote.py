"""Runs stages on another work pool: starts a flow run there and waits for it; the store then has the results."""

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
"""Name of the flow that runs the stages; its deployment is named after the work pool."""
_POLL_SECONDS = 2.0


def run_remotely(
    adaptation: Adaptation, jobs: Sequence[Job], cancelled: Callable[[], bool], *, distributed: bool
) -> None:
    """Run jobs on the GPU pool of the settings and wait until their artifacts are in the store.

    Raises:
        ConfigError: If the pool has no deployment of the flow `stage-group`.
        StageInterrupted: If that flow run crashed; a retry resumes it.
        MixcptError: If that flow run failed; the message is its message.
    """
    pool = adaptation.config.runtime.gpu_pool
    group = StageGroupConfig(
        adapt=adaptation.config,
        base=adaptation.base.to_json(),
        run_id=adaptation.run_id,
        root_flow_run_id=adaptation.root_flow_run_id,
        jobs=tuple(job.to_json() for job in jobs),
        distributed=distributed,
    )
    name = f"{adaptation.config.name}: {', '.join(job.name for job in jobs)}"
    try:
        parameters = {"config": group.model_dump(mode="json")}
        started = run_deployment(f"{FLOW}/{pool}", flow_run_name=name, parameters=parameters, timeout=0)
    except ObjectNotFound:
        hint = f"create it: mixcpt deploy --gpu-pool {pool}"
        raise ConfigError(f"runtime.gpu_pool is {pool!r}, but there is no deployment {FLOW}/{pool}", hint) from None
    state = _wait(cast(FlowRun, started), cancelled)  # a coroutine only in an asynchronous flow
    if not state.is_completed():
        error = StageInterrupted if state.is_crashed() else MixcptError
        raise error(f"{name}, on the work pool {pool}, ended as {state.name}: {state.message or 'no message'}")


def _wait(flow_run: FlowRun, cancelled: Callable[[], bool]) -> State[object]:
    """Wait for the end of a flow run and return its final state; cancel it if the waiting run is cancelled."""
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
    """Return the state of a flow run; None if the server is unreachable.

    Raises:
        ObjectNotFound: If the server has no such flow run.
    """
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run).state
    except httpx.HTTPError:
        return None


def _cancel(flow_run: UUID) -> None:
    with (
        suppress(httpx.HTTPError),
        get_client(sync_client=True) as client,
    ):  # keep the first error
        client.set_flow_run_state(flow_run, Cancelling())
