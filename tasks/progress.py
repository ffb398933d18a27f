"""How far a stage is: a bar on the terminal, a progress artifact and a line in the log of Prefect now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mixcpt.tracking import Measurement

_ARTIFACT_SECONDS = 5.0
_LINE_SECONDS = 30.0
_SHOWN = ("train/loss", "train/tokens_per_second")


class ProgressReport:
    """Shows the measurements of one stage after the other."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.stage = ""
        self.row: TaskID | None = None
        self.artifact: UUID | None = None
        self.next_artifact = 0.0
        self.next_line = 0.0

    def start(self, stage: str) -> None:
        get_run_logger().info("%s started", stage)
        self.stage = stage
        self.row = self.bar.add_task(stage, total=None)
        self.artifact = None
        self.next_artifact = 0.0
        self.next_line = time.monotonic() + _LINE_SECONDS

    def show(self, measurement: Measurement) -> None:
        now = time.monotonic()
        step, total = measurement.step, measurement.total_steps
        if self.row is not None:
            self.bar.update(self.row, completed=step, total=total)
        if now >= self.next_line:
            figures = [
                f"{name.rpartition('/')[2]} {measurement.metrics[name]:.4g}"
                for name in _SHOWN
                if name in measurement.metrics
            ]
            get_run_logger().info("%s: step %s of %s  %s", self.stage, step, total or "?", "  ".join(figures))
            self.next_line = now + _LINE_SECONDS
        if total and now >= self.next_artifact:
            self._publish(100 * step / total)
            self.next_artifact = now + _ARTIFACT_SECONDS

    def finish(self, text: str) -> None:
        get_run_logger().info("%s %s", self.stage, text)
        if self.row is not None:
            self.bar.remove_task(self.row)
        if self.artifact:
            self._publish(100.0)

    def _publish(self, percent: float) -> None:
        with suppress(httpx.HTTPError):  # what is shown must not stop what is done
            if self.artifact is None:
                created = create_progress_artifact(percent, key=self.stage.lower(), description=self.stage)
                self.artifact = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self.artifact, percent)


@contextmanager
def progress_report() -> Iterator[ProgressReport]:
    """Yields a report whose bar is drawn on standard error where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield ProgressReport(bar)
