"""Hooks of flow runs: label a run with its process, and close its MLflow runs if it fails or is cancelled."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State

from mixcpt.config import RuntimeConfig
from tasks.stage_runs import close_flow_run
from tasks.tracking import PROCESS, Place, open_tracking, process_identity


def label_process(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Write the identity of this process into the flow run's labels, for `mixcpt reconcile`."""
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {PROCESS: process_identity()})


def close_as_failed(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Close the MLflow runs of a failed or crashed flow run."""
    _close(flow_run, "FAILED")


def close_as_killed(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Close the MLflow runs of a cancelled flow run."""
    _close(flow_run, "KILLED")


HOOKS: dict[str, Any] = {
    "on_running": [label_process],
    "on_failure": [close_as_failed],
    "on_crashed": [close_as_failed],
    "on_cancellation": [close_as_killed],
}
"""Hooks of every flow that opens MLflow runs."""


def _close(flow_run: FlowRun, status: str) -> None:
    configs = flow_run.parameters.get("configs") or [flow_run.parameters.get("config") or {}]
    for config in configs:
        close_flow_run(open_tracking(Place.of(_runtime(config))), str(flow_run.id), status)


def _runtime(config: Mapping[str, Any]) -> RuntimeConfig:
    """Return the runtime settings of a flow: its own, or the runtime settings of its adaptation."""
    nodes = (config, config.get("settings") or {}, config.get("adapt") or {})
    return RuntimeConfig.model_validate(next((node["runtime"] for node in nodes if "runtime" in node), {}))
