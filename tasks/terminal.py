"""Output of a flow on the terminal of its command: one line per stage with its progress, and every warning once."""

import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.logging.configuration import setup_logging
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn
from rich.text import Text

LINE_SECONDS = 10.0
"""Minimum time between two lines about the progress of a stage, if the output is not a terminal."""
FORWARDED = "mixcpt_forwarded"
"""Attribute of log records of a worker process."""
_NAME_CHARACTERS = 20
"""Width of the name of a stage; the name of its run comes on top."""
_OWN = "mixcpt"
_LOGGER = re.compile(r"^mixcpt(\.\w+)*: ")
"""Name of the logger before a message of a worker process."""
_COUNTS = "mixcpt.curation: "
"""Beginning of the lines with the counts of every source after curation."""
_STATE_CHANGES = ("Finished in state", "Encountered exception", "Process for flow run", "Crash detected")
"""Beginnings of log lines that repeat the error with which the command ends."""


class Terminal:
    """Lines and bars on standard error; the bars of all running stages are drawn together."""

    def __init__(
        self, console: Console | None = None, *, with_runs: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a terminal.

        Args:
            console: Console to write to; by default that of standard error.
            with_runs: Whether the line of a stage begins with the name of its run.
            clock: Clock in seconds.
        """
        self.console = console or Console(stderr=True)
        self.with_runs = with_runs
        self.clock = clock
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._bar: Progress | None = None
        self._num_rows = 0
        self._width = _NAME_CHARACTERS

    def line(self, text: str, style: str = "") -> None:
        """Print a line above the bars."""
        with self._lock:
            self.console.print(Text(text, style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, unless it was printed before."""
        with self._lock:
            if text not in self._warned:
                self._warned.add(text)
                self.line(f"warning: {text}", "yellow")

    def open_row(self, run: str, stage: str) -> "Row":
        """Show a stage that has started."""
        before = f"{run}: " if self.with_runs and run else ""
        with self._lock:
            self._width = max(self._width, len(before) + _NAME_CHARACTERS)
        return Row(self, f"{before}{stage:<{self._width - len(before)}}")

    def add_bar(self, name: str) -> tuple[Progress, TaskID] | None:
        """Start to draw a bar and return it; None if the output is not a terminal."""
        if not self.console.is_terminal:
            return None
        with self._lock:
            if self._bar is None:
                self._bar = _progress(self.console)
                self._bar.start()
            self._num_rows += 1
            return self._bar, self._bar.add_task(name, total=None, details="")

    def remove_bar(self, bar: Progress, task: TaskID) -> None:
        with self._lock:
            bar.remove_task(task)
            self._num_rows -= 1
            if not self._num_rows:
                bar.stop()
                self._bar = None


class Row:
    """The line of one stage: a bar while it runs, a sentence when it has ended."""

    def __init__(self, terminal: Terminal, name: str) -> None:
        self.terminal = terminal
        self.name = name
        self.bar = terminal.add_bar(self.name)
        self.next_line = terminal.clock() + LINE_SECONDS

    def show(self, step: int, total: int | None, details: str) -> None:
        """Show the progress: in the bar, or in a line if the last one is long ago."""
        if self.bar:
            bar, task = self.bar
            bar.update(task, completed=step, total=total, details=details)
        elif self.terminal.clock() >= self.next_line:
            self.next_line = self.terminal.clock() + LINE_SECONDS
            percent = f"{100 * step / total:3.0f} %  " if total else ""
            self.terminal.line(f"{self.name} {percent}{step} of {total or '?'}  {details}".rstrip())

    def close(self, text: str, style: str = "") -> None:
        """Replace the bar by a sentence; an empty text leaves nothing."""
        if self.bar:
            self.terminal.remove_bar(*self.bar)
            self.bar = None
        if text:
            self.terminal.line(f"{self.name} {text}", style)


class _Silence(Terminal):
    """Terminal of a flow that a worker of Prefect runs: its log is enough."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


_current: Terminal = _Silence()


def current_terminal() -> Terminal:
    """Return the terminal of the command that runs the flow; it shows nothing if there is no command."""
    return _current


@contextmanager
def on_terminal(terminal: Terminal) -> Iterator[Terminal]:
    """Show stages and warnings on a terminal in place of Prefect's log lines, which only its server then keeps."""
    global _current
    setup_logging()
    handler, before = _Warnings(terminal), _current
    loggers = [logging.getLogger(name) for name in (None, *logging.Logger.manager.loggerDict)]
    replaced = [logger for logger in loggers if any(isinstance(h, PrefectConsoleHandler) for h in logger.handlers)]
    for logger in replaced:
        for console in logger.handlers:
            if isinstance(console, PrefectConsoleHandler):  # not removed: Prefect configures it again by its name
                console.addFilter(_nothing)
        logger.addHandler(handler)
    _current = terminal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, for their developers
            yield terminal
    finally:
        _current = before
        for logger in replaced:
            logger.removeHandler(handler)
            for console in logger.handlers:
                console.removeFilter(_nothing)


class _Warnings(logging.Handler):
    """Prints warnings and retries of the flow, and mixcpt's own warnings of its workers, each once."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        is_retry = "Retry " in text and "will start" in text
        if record.levelno == logging.INFO and text.startswith(_COUNTS):
            self.terminal.line(text.removeprefix("mixcpt."))
        if record.levelno < logging.WARNING and not is_retry:
            return
        is_of_library = hasattr(record, FORWARDED) and not text.startswith(_OWN)
        is_of_library = is_of_library or record.name.partition(".")[0] not in (_OWN, "prefect", "tasks", "flows")
        if text.startswith(_STATE_CHANGES) or is_of_library:
            return
        self.terminal.warn(_LOGGER.sub("", text).partition("\nTraceback")[0])


def _nothing(record: logging.LogRecord) -> bool:
    return False


class _Count(MofNCompleteColumn):
    """Number of finished and of all steps; nothing for a stage that reports none."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None or task.completed else Text()


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        _Count(),
        TextColumn("{task.fields[details]}", markup=False),
    )
    return Progress(*columns, console=console, transient=True)
