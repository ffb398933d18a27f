"""Filters for the log of a run: hide tracebacks of deliberate errors, and messages about routine hooks."""

import logging
from collections.abc import Callable

from mixcpt.errors import MixcptError
from tasks.hooks import label_process

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def hide_tracebacks_of_deliberate_errors() -> None:
    """Make Prefect log a `MixcptError` without its traceback; every other error keeps it."""
    _filter_run_logs(_without_traceback)


def hide_routine_hooks() -> None:
    """Hide the two lines per flow in which Prefect reports that it runs `label_process`."""
    _filter_run_logs(_is_no_routine)


def _filter_run_logs(accept: Callable[[logging.LogRecord], bool]) -> None:
    for name in _RUN_LOGGERS:
        logging.getLogger(name).addFilter(accept)  # adding a filter again changes nothing


def _is_no_routine(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or f"ook {label_process.__name__!r}" not in str(record.msg)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], MixcptError):
        record.exc_info = None
    return True
