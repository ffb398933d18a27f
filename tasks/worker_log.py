"""What a training process writes to its log file, in the log of the Prefect run too: its own news, others' warnings."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from prefect.logging import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler

_FORWARDED = "mixcpt_forwarded"
"""Attribute of a record that is not for the terminal: there is the bar, and the file has the line already."""
_LINE = re.compile(r"^[\d-]{10} [\d:]{8},\d{3} (?P<name>\S+) (?P<level>[A-Z]+) (?P<message>.*)$")
_LINES_PER_SECOND = 3.0
_BURST = 20.0
_MAX_CHARACTERS = 1000

Report = Callable[[int, str], None]


class WorkerLog:
    """Forwards a log file as it grows, a few lines a second; what is beyond that is counted."""

    def __init__(self, path: Path, report: "Report | None" = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.report = report or run_log()
        self.clock = clock
        self.read = 0
        self.allowed = _BURST
        self.asked_at = clock()
        self.left_out = 0

    def forward(self) -> None:
        """Forwards the complete lines that are new."""
        now = self.clock()
        self.allowed = min(_BURST, self.allowed + _LINES_PER_SECOND * (now - self.asked_at))
        self.asked_at = now
        for line in self._fresh_lines():
            if (parsed := parse(line)) is None:
                continue
            if self.allowed < 1:
                self.left_out += 1
            else:
                self._tell_what_was_left_out()
                self.allowed -= 1
                self.report(*parsed)

    def finish(self) -> None:
        """Forwards the rest."""
        self.forward()
        self._tell_what_was_left_out()

    def _fresh_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.read)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        return whole.decode(errors="replace").splitlines()

    def _tell_what_was_left_out(self) -> None:
        if self.left_out:
            self.report(logging.INFO, f"({self.left_out} more lines are in {self.path})")
            self.left_out = 0


def parse(line: str) -> tuple[int, str] | None:
    """Returns level and text of a line that is worth forwarding, else None; a traceback's lines are in the file."""
    found = _LINE.match(line)
    if found is None:
        return None
    name, level = found["name"], logging.getLevelNamesMapping().get(found["level"], logging.NOTSET)
    is_ours = name == "mixcpt" or name.startswith("mixcpt.")
    if level < (logging.INFO if is_ours else logging.WARNING):
        return None
    return level, f"{name}: {found['message']}"[:_MAX_CHARACTERS]


def run_log() -> Report:
    """Returns what writes into the log of the current run at the server, and not on the terminal."""
    for name in ("prefect", None):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler) and _is_for_terminal not in handler.filters:
                handler.addFilter(_is_for_terminal)
    logger = get_run_logger()
    return lambda level, text: logger.log(level, "%s", text, extra={_FORWARDED: True})


def _is_for_terminal(record: logging.LogRecord) -> bool:
    return not hasattr(record, _FORWARDED)
