"""Lines of a worker's log are forwarded to the log of its run: filtered, at a limited rate, skipped ones counted."""

import logging
from pathlib import Path

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.logging.loggers import PrefectLogAdapter

from tasks.watching import WorkerLog, parse, run_log

STAMP = "2026-03-01 14:00:00,123"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def forwarder(path: Path) -> tuple[WorkerLog, list[tuple[int, str]], Clock]:
    reported: list[tuple[int, str]] = []
    clock = Clock()
    return WorkerLog(path, lambda level, text: reported.append((level, text)), clock), reported, clock


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
def test_parse_takes_own_messages_and_warnings_of_other_libraries(line: str, expected: tuple[int, str] | None) -> None:
    assert parse(line) == expected


def test_log_lines_are_forwarded_once_when_they_are_complete(tmp_path: Path) -> None:
    log, reported, _ = forwarder(tmp_path / "log.txt")
    log.forward()
    with log.path.open("w") as stream:
        stream.write(f"{STAMP} mixcpt.train INFO one\n{STAMP} mixcpt.train INFO tw")
        stream.flush()
        log.forward()
        assert [text for _, text in reported] == ["mixcpt.train: one"]
        stream.write("o\n")
        stream.flush()
        log.forward()
        log.forward()
    assert [text for _, text in reported] == ["mixcpt.train: one", "mixcpt.train: two"]


def test_log_with_too_many_lines_is_limited_and_the_others_are_counted(tmp_path: Path) -> None:
    log, reported, clock = forwarder(tmp_path / "log.txt")
    log.path.write_text("".join(f"{STAMP} mixcpt.train INFO line {number}\n" for number in range(100)))
    log.forward()
    assert [text for _, text in reported] == [f"mixcpt.train: line {number}" for number in range(20)]
    clock.now += 2.0  # six more lines are allowed
    with log.path.open("a") as stream:
        stream.writelines(f"{STAMP} mixcpt.train INFO more {number}\n" for number in range(10))
    log.forward()
    assert reported[20] == (logging.INFO, f"(80 more lines are in {log.path})")
    assert [text for _, text in reported[21:]] == [f"mixcpt.train: more {number}" for number in range(6)]
    log.finish()
    assert reported[-1] == (logging.INFO, f"(4 more lines are in {log.path})")
    assert len(reported) == 28


def test_forwarded_lines_reach_the_run_but_not_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[logging.LogRecord] = []
    console = PrefectConsoleHandler()
    console.emit = handled.append  # type: ignore[method-assign]
    elsewhere = logging.Handler()
    reached: list[logging.LogRecord] = []
    elsewhere.emit = reached.append  # type: ignore[method-assign]
    logger = logging.getLogger("prefect.test_worker_log")
    monkeypatch.setattr(logging.getLogger("prefect"), "handlers", [console, elsewhere])
    monkeypatch.setattr("tasks.watching.get_run_logger", lambda: PrefectLogAdapter(logger))
    run_log()(logging.WARNING, "of the worker")
    logger.warning("of the flow")
    assert [record.getMessage() for record in reached] == ["of the worker", "of the flow"]
    assert [record.getMessage() for record in handled] == ["of the flow"]
