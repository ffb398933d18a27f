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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mixcpt.store.spool import Measurement
from tasks.pace import Pace, ending

_ARTIFACT_SECONDS = 10.0
_LINE_SECONDS = 30.0
_SHOWN = ("train/loss", "train/tokens_per_second")
_WAITING = "waiting-for-gpus"
"""Key of the artifact of a run that waits; the same in every run, so that the page of artifacts lists who waits."""


class ProgressReport:
    """Shows the measurements of one stage after the other, and what it waits for before."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.stage = ""
        self.row: TaskID | None = None
        self.shown = _ShownProgress("")
        self.pace = Pace()
        self.next_artifact = 0.0
        self.next_line = 0.0

    def wait(self, reason: str) -> None:
        """Shows what the run waits for; to be called again while it waits."""
        if reason != self.stage:
            get_run_logger().info(reason)
        if self.row is None:
            self.row = self.bar.add_task("", total=None, ending="")
            self.shown = _ShownProgress(_WAITING)
        self.bar.update(self.row, description=reason)
        if reason != self.stage:
            self.shown.publish(0.0, reason)
        self.stage = reason

    def waited(self, what: str) -> None:
        """Ends the waiting, if there was any."""
        if self.row is not None:
            get_run_logger().info(what)
            self.shown.publish(100.0, what)
            self._remove_row()
        self.stage = ""

    def start(self, stage: str) -> None:
        get_run_logger().info("%s started", stage)
        self.stage = stage
        self.row = self.bar.add_task(stage, total=None, ending="")
        self.shown = _ShownProgress(stage.lower())
        self.pace = Pace()
        self.next_artifact = 0.0
        self.next_line = time.monotonic() + _LINE_SECONDS

    def show(self, measured: list[Measurement]) -> None:
        """Shows the last of some measurements, and how long the rest takes at the rate of the last minutes."""
        for measurement in measured:
            self.pace.add(measurement.step, measurement.time_seconds)
        last, now = measured[-1], time.monotonic()
        rest = ending(self.pace.seconds_left(last.total_steps))
        if self.row is not None:
            self.bar.update(self.row, completed=last.step, total=last.total_steps, ending=rest)
        if now >= self.next_line:
            get_run_logger().info("%s: %s", self.stage, _line(last, rest))
            self.next_line = now + _LINE_SECONDS
        if last.total_steps and now >= self.next_artifact:
            self.shown.publish(100 * last.step / last.total_steps, f"{self.stage}: {_line(last, rest)}")
            self.next_artifact = now + _ARTIFACT_SECONDS

    def finish(self, text: str, *, whole: bool = True) -> None:
        """Ends the stage; one that is not `whole` stays where it stood."""
        get_run_logger().info("%s %s", self.stage, text)
        self._remove_row()
        if self.shown.artifact:
            self.shown.publish(100.0 if whole else self.shown.percent, f"{self.stage} {text}")

    def _remove_row(self) -> None:
        if self.row is not None:
            self.bar.remove_task(self.row)
        self.row = None


class _ShownProgress:
    """A progress artifact, made when there is something to show."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.percent = 0.0
        self.artifact: UUID | None = None

    def publish(self, percent: float, description: str) -> None:
        self.percent = percent
        with suppress(httpx.HTTPError):  # what is shown must not stop what is done
            if self.artifact is None:
                created = create_progress_artifact(percent, key=self.key, description=description)
                self.artifact = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self.artifact, percent, description=description)


def _line(measurement: Measurement, rest: str) -> str:
    figures = [
        f"{name.rpartition('/')[2]} {measurement.metrics[name]:.4g}" for name in _SHOWN if name in measurement.metrics
    ]
    return "  ".join(filter(None, [f"step {measurement.step} of {measurement.total_steps or '?'}", *figures, rest]))


@contextmanager
def progress_report() -> Iterator[ProgressReport]:
    """Yields a report whose bar is drawn on standard error where that is a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[ending]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield ProgressReport(bar)
