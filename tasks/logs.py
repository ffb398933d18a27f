"""What the log of a run shows of an error that was foreseen: its message, which says what to do, without a stack."""

import logging

from mixcpt.errors import MixcptError

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def hide_tracebacks_of_foreseen_errors() -> None:
    """Makes Prefect log a `MixcptError` as its message alone; every other error keeps its traceback."""
    for name in _RUN_LOGGERS:
        logger = logging.getLogger(name)
        if _without_traceback not in logger.filters:
            logger.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], MixcptError):
        record.exc_info = None
    return True
