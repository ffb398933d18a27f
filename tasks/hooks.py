"""Hooks of flow runs, which label a run with its process or close its MLflow runs, and filters for the log of a run."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State

from mixcpt.config import RuntimeConfig
from mixcpt.errors import MixcptError
from tasks.stage_runs import close_flow_run
from tasks.tracking import PROCESS, Place, open_tracking, process_identity

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def label_process(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Write the identity of this process into the flow run's labels, for `mixcpt reconcile`."""
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {PROCESS: process_identity()})


def close_tracking(flow: "Flow[..., object]", flow_run: FlowRun, state: State[object]) -> None:
    """Close the MLflow runs of a failed, crashed or cancelled flow run."""
    status = "FAILED" if state.is_failed() or state.is_crashed() else "KILLED"
    configs = flow_run.parameters.get("configs") or [flow_run.parameters.get("config") or {}]
    for config in configs:
        close_flow_run(open_tracking(Place.of(_runtime(config))), str(flow_run.id), status)


HOOKS: dict[str, Any] = {
    "on_running": [label_process],
    "on_failure": [close_tracking],
    "on_crashed": [close_tracking],
    "on_cancellation": [close_tracking],
}
"""Hooks of every flow that opens MLflow runs."""


def _runtime(config: Mapping[str, Any]) -> RuntimeConfig:
    """Return the runtime settings of a flow: its own, or the runtime settings of its adaptation."""
    if "store" in config:  # the short form
        return RuntimeConfig(store=config["store"])
    nodes = (config, config.get("settings") or {}, config.get("adapt") or {})
    return RuntimeConfig.model_validate(next((node["runtime"] for node in nodes if "runtime" in node), {}))


def filter_run_logs() -> None:
    """Hide the traceback of every `MixcptError`, and the two lines per flow with which Prefect runs `label_process`."""
    for name in _RUN_LOGGERS:
        logging.getLogger(name).addFilter(_without_routine)  # adding a filter again changes nothing


def _without_routine(record: logging.LogRecord) -> bool:
    """Remove the traceback of a deliberate error, and return whether the record is to be logged."""
    if record.exc_info and isinstance(record.exc_info[1], MixcptError):
        record.exc_info = None
    return record.levelno > logging.INFO or f"ook {label_process.__name__!r}" not in str(record.msg)
