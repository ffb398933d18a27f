"""The log of a flow run has every deliberate error once, and readable."""

import logging
from collections.abc import Iterator

import pytest

from mixcpt.errors import ConfigError
from tasks.hooks import filter_run_logs

TEXT = "2 problems:\n  base.model: there is no folder /x\n  name: base is reserved\n  -> change both"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Lines of the log of runs."""
    filter_run_logs()
    logged: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(self.format(record))

    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")]
    handler = Keep(logging.INFO)
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    yield logged
    for logger, level, propagate in before:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def fail(error: Exception, *, has_task: bool = False) -> None:
    """Log as Prefect does when a flow fails."""
    flow, task, engine = (logging.getLogger(f"prefect.{name}") for name in ("flow_runs", "task_runs", "engine"))
    try:
        raise error
    except Exception:
        if has_task:
            task.exception(f"Task run failed with exception: {error!r} - Retries are exhausted")
        flow.exception("Encountered exception during execution: %r", error)
        flow.info(f"Finished in state Failed({str(error)!r})")
        engine.exception("Execution of flow run 'abc' exited with unexpected exception")


@pytest.mark.parametrize("has_task", [False, True])
def test_problems_are_logged_once_without_traceback(lines: list[str], has_task: bool) -> None:
    fail(ConfigError(*TEXT.split("\n  -> ")), has_task=has_task)
    whole = "\n".join(lines)
    assert whole.count(TEXT) == whole.count("name: base is reserved") == 1
    assert "Traceback" not in whole
    assert lines[-1] == "Finished in state Failed"
    assert len(lines) == 2 + has_task


def test_other_errors_keep_their_traceback(lines: list[str]) -> None:
    fail(ValueError("a bug"))
    assert sum("Traceback" in line for line in lines) == 2


def test_other_lines_are_left_as_they_are(lines: list[str]) -> None:
    logging.getLogger("prefect.flow_runs").info("Finished in state %s", "Completed()")
    logging.getLogger("prefect.flow_runs").info("Running hook 'label_process' in response to entering state 'Running'")
    assert lines == ["Finished in state Completed()"]
