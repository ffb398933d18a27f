"""The log of a training process in the log of its run: what is worth it, a few lines a second, the rest counted."""

import logging
from pathlib import Path

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.logging.loggers import PrefectLogAdapter

from tasks.worker_log import WorkerLog, parse, run_log

STAMP = "2026-03-01 14:00:00,123"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def forwarder(path: Path) -> tuple[WorkerLog, list[tuple[int, str]], Clock]:
    told: list[tuple[int, str]] = []
    clock = Clock()
    return WorkerLog(path, lambda level, text: told.append((level, text)), clock), told, clock


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{STAMP} mixcpt.train INFO resumed at step 5", (logging.INFO, "mixcpt.train: resumed at step 5")),
        (f"{STAMP} mixcpt.store WARNING slow: 3 s", (logging.WARNING, "mixcpt.store: slow: 3 s")),
        (f"{STAMP} transformers.trainer WARNING odd", (logging.WARNING, "transformers.trainer: odd")),
        (f"{STAMP} transformers.trainer INFO chatter", None),
        (f"{STAMP} mixcptish INFO chatter", None),
        (f"{STAMP} mixcpt.train DEBUG detail", None),
        ("  File 'x.py', line 3, in f", None),
        ("", None),
    ],
)
def test_parse_takes_our_news_and_warnings_of_others(line: str, expected: tuple[int, str] | None) -> None:
    assert parse(line) == expected


def test_log_is_forwarded_once_and_a_line_under_way_later(tmp_path: Path) -> None:
    log, told, _ = forwarder(tmp_path / "log.txt")
    log.forward()
    with log.path.open("w") as stream:
        stream.write(f"{STAMP} mixcpt.train INFO one\n{STAMP} mixcpt.train INFO tw")
        stream.flush()
        log.forward()
        assert [text for _, text in told] == ["mixcpt.train: one"]
        stream.write("o\n")
        stream.flush()
        log.forward()
        log.forward()
    assert [text for _, text in told] == ["mixcpt.train: one", "mixcpt.train: two"]


def test_log_that_floods_is_bounded_and_the_rest_is_counted(tmp_path: Path) -> None:
    log, told, clock = forwarder(tmp_path / "log.txt")
    log.path.write_text("".join(f"{STAMP} mixcpt.train INFO line {number}\n" for number in range(100)))
    log.forward()
    assert [text for _, text in told] == [f"mixcpt.train: line {number}" for number in range(20)]
    clock.now += 2.0  # six more lines are allowed
    with log.path.open("a") as stream:
        stream.writelines(f"{STAMP} mixcpt.train INFO more {number}\n" for number in range(10))
    log.forward()
    assert told[20] == (logging.INFO, f"(80 more lines are in {log.path})")
    assert [text for _, text in told[21:]] == [f"mixcpt.train: more {number}" for number in range(6)]
    log.finish()
    assert told[-1] == (logging.INFO, f"(4 more lines are in {log.path})")
    assert len(told) == 28


def test_forwarded_lines_reach_the_run_and_stay_off_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[logging.LogRecord] = []
    console = PrefectConsoleHandler()
    console.emit = handled.append  # type: ignore[method-assign]
    elsewhere = logging.Handler()
    reached: list[logging.LogRecord] = []
    elsewhere.emit = reached.append  # type: ignore[method-assign]
    logger = logging.getLogger("prefect.test_worker_log")
    monkeypatch.setattr(logging.getLogger("prefect"), "handlers", [console, elsewhere])
    monkeypatch.setattr("tasks.worker_log.get_run_logger", lambda: PrefectLogAdapter(logger))
    run_log()(logging.WARNING, "of the worker")
    logger.warning("of the flow")
    assert [record.getMessage() for record in reached] == ["of the worker", "of the flow"]
    assert [record.getMessage() for record in handled] == ["of the flow"]
