"""Forwards a worker's log file to the log of the Prefect run: messages of mixcpt, and warnings of other libraries."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from prefect.logging import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler

_FORWARDED = "mixcpt_forwarded"
"""Attribute of records that are hidden on the terminal, which shows a bar instead."""
_LINE = re.compile(r"^[\d-]{10} [\d:]{8},\d{3} (?P<name>\S+) (?P<level>[A-Z]+) (?P<message>.*)$")
_LINES_PER_SECOND = 3.0
_BURST = 20.0
_MAX_CHARACTERS = 1000

Report = Callable[[int, str], None]


class WorkerLog:
    """Forwards new lines of a log file, a few per second; further lines are only counted."""

    def __init__(self, path: Path, report: "Report | None" = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.report = report or run_log()
        self.clock = clock
        self.offset = 0
        self.allowed = _BURST
        self.refilled_at = clock()
        self.num_skipped = 0

    def forward(self) -> None:
        """Forward the new complete lines."""
        now = self.clock()
        self.allowed = min(_BURST, self.allowed + _LINES_PER_SECOND * (now - self.refilled_at))
        self.refilled_at = now
        for line in self._fresh_lines():
            if (parsed := parse(line)) is None:
                continue
            if self.allowed < 1:
                self.num_skipped += 1
            else:
                self._report_skipped()
                self.allowed -= 1
                self.report(*parsed)

    def finish(self) -> None:
        """Forward the remaining lines and report the number of skipped ones."""
        self.forward()
        self._report_skipped()

    def _fresh_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole.decode(errors="replace").splitlines()

    def _report_skipped(self) -> None:
        if self.num_skipped:
            self.report(logging.INFO, f"({self.num_skipped} more lines are in {self.path})")
            self.num_skipped = 0


def parse(line: str) -> tuple[int, str] | None:
    """Return level and text of a line to forward; None for other lines, such as a traceback."""
    match = _LINE.match(line)
    if match is None:
        return None
    name, level = match["name"], logging.getLevelNamesMapping().get(match["level"], logging.NOTSET)
    is_own = name == "mixcpt" or name.startswith("mixcpt.")
    if level < (logging.INFO if is_own else logging.WARNING):
        return None
    return level, f"{name}: {match['message']}"[:_MAX_CHARACTERS]


def run_log() -> Report:
    """Return a function that logs to the current run on the server, and hide its records on the terminal."""
    for name in ("prefect", None):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler) and _is_for_terminal not in handler.filters:
                handler.addFilter(_is_for_terminal)
    logger = get_run_logger()
    return lambda level, text: logger.log(level, "%s", text, extra={_FORWARDED: True})


def _is_for_terminal(record: logging.LogRecord) -> bool:
    return not hasattr(record, _FORWARDED)
