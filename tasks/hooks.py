"""Hooks of flow runs, which label a run with its process or close its MLflow runs, and filters for the log of a run."""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State

from mixcpt.config import RuntimeConfig
from mixcpt.errors import MixcptError
from tasks.stage_runs import close_flow_run
from tasks.tracking import PROCESS, Place, open_tracking, process_identity

_ENGINE = "prefect.engine"
_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", _ENGINE)
_FAILED = re.compile(r"Finished in state (?:Failed|Crashed)(?=\()")
"""Line at the end of a run; in brackets follows the text of the error, which the log already has."""


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
    """Log every `MixcptError` once and without traceback, and hide the two lines with which Prefect runs a hook."""
    for name in _RUN_LOGGERS:
        logging.getLogger(name).addFilter(_without_routine)  # adding a filter again changes nothing


_logged: "WeakSet[MixcptError]" = WeakSet()
"""Errors whose whole text is in the log."""


def _without_routine(record: logging.LogRecord) -> bool:
    """Make the record of a deliberate error readable, and return whether the record is to be logged."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MixcptError):
        is_end_of_process = record.name == _ENGINE
        if is_end_of_process and error in _logged:
            return False
        text = _first_line(str(error)) if error in _logged else str(error)
        record.msg, record.args = record.getMessage().replace(repr(error), text), ()
        record.exc_info = record.exc_text = None
        _logged.add(error)
    elif record.levelno == logging.INFO and (state := _FAILED.match(record.getMessage())):
        record.msg, record.args = state.group(), ()
    return record.levelno > logging.INFO or f"ook {label_process.__name__!r}" not in str(record.msg)


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")
