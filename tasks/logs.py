"""What the log of a run shows of an error that was foreseen: its message, which says what to do, without a stack.

And what the terminal does not show a second time: lines that were forwarded from the log of a training process.
"""

import logging

from prefect.logging.handlers import PrefectConsoleHandler

from mixcpt.errors import MixcptError
from tasks.worker_log import FORWARDED

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def hide_tracebacks_of_foreseen_errors() -> None:
    """Makes Prefect log a `MixcptError` as its message alone; every other error keeps its traceback."""
    for name in _RUN_LOGGERS:
        logger = logging.getLogger(name)
        if _without_traceback not in logger.filters:
            logger.addFilter(_without_traceback)


def keep_forwarded_lines_off_the_terminal() -> None:
    """Makes Prefect send forwarded lines to its server alone: on the terminal is the bar, and the log file has them."""
    for name in ("prefect", None):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler) and _is_not_forwarded not in handler.filters:
                handler.addFilter(_is_not_forwarded)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], MixcptError):
        record.exc_info = None
    return True


def _is_not_forwarded(record: logging.LogRecord) -> bool:
    return not hasattr(record, FORWARDED)
