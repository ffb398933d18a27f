"""What a flow run does when it begins, so that its death can be seen, and when it does not end well."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from mixcpt.config import RuntimeConfig
from tasks.stage_runs import close_flow_run
from tasks.tracking import PROCESS, Place, open_tracking, process_identity


def remember_process(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Writes into the flow run's labels which process it is, for `mixcpt reconcile`."""
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {PROCESS: process_identity()})


@contextmanager
def one_heartbeat() -> Iterator[None]:
    """Lets the flows that this one calls be silent: they live as long as it does.

    A flow that sends heartbeats of its own waits, at its end, up to a second for them to stop.
    """
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def close_as_failed(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Ends the MLflow runs of a failed or crashed flow run."""
    _close(flow_run, "FAILED")


def close_as_killed(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Ends the MLflow runs of a cancelled flow run."""
    _close(flow_run, "KILLED")


def _close(flow_run: FlowRun, status: str) -> None:
    given = flow_run.parameters.get("configs") or [flow_run.parameters.get("config") or {}]
    for config in given:
        close_flow_run(open_tracking(Place.of(_runtime(config))), str(flow_run.id), status)


def _runtime(config: Mapping[str, Any]) -> RuntimeConfig:
    """Returns where a flow ran: beside its settings, or in those of the trainings that it is made of."""
    nodes = (config, config.get("settings") or {}, config.get("adapt") or {})
    return RuntimeConfig.model_validate(next((node["runtime"] for node in nodes if "runtime" in node), {}))
