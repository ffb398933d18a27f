"""What the log of a run leaves out: the stack of a foreseen error, and word of the hook that every flow has."""

import logging

from mixcpt.errors import MixcptError
from tasks.hooks import remember_process

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def hide_tracebacks_of_foreseen_errors() -> None:
    """Makes Prefect log a `MixcptError` as its message alone; every other error keeps its traceback."""
    for name in _RUN_LOGGERS:
        logger = logging.getLogger(name)
        if _without_traceback not in logger.filters:
            logger.addFilter(_without_traceback)


def hide_routine_hooks() -> None:
    """Makes Prefect not tell, twice a flow, that `remember_process` is run."""
    for name in _RUN_LOGGERS:
        logger = logging.getLogger(name)
        if _is_news not in logger.filters:
            logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or f"ook {remember_process.__name__!r}" not in str(record.msg)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], MixcptError):
        record.exc_info = None
    return True
