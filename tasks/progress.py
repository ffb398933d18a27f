"""Shows the progress of a stage: a line on the terminal, a progress artifact and log lines, with the remaining time."""

import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from mixcpt.report.words import duration
from mixcpt.store.spool import Measurement
from tasks.terminal import Row, Terminal, current_terminal

_ARTIFACT_SECONDS = 10.0
_LINE_SECONDS = 30.0
_SHOWN = {
    "train/loss": "loss {:,.4g}",
    "train/tokens_per_second": "tokens/s {:,.4g}",
    "train/padding": "padding {:.1%}",
}
"""Figures on the terminal and in the log, with their form."""
_WAITING = "waiting-for-gpus"
"""Key of the artifact of a waiting run; equal in all runs, so that Prefect lists all waiting runs on one page."""
_WINDOW_SECONDS = 300.0
_COUNTED = ("evaluate/", "select/", "teacher/")
"""Beginnings of the metrics of stages that count answers, samples or tokens, not steps."""
_MIN_SECONDS = 3.0
"""Time between the first and the last step below which there is no estimate: answers of one batch arrive together."""


class Pace:
    """Times of the steps of the last minutes; all steps would let a slow start distort the estimate for hours."""

    def __init__(self, window_seconds: float = _WINDOW_SECONDS) -> None:
        self.window_seconds = window_seconds
        self.points: deque[tuple[int, float]] = deque()

    def add(self, step: int, time_seconds: float) -> None:
        """Add the Unix time of a step; an earlier step than the last one means a resume and discards all others."""
        if self.points and step < self.points[-1][0]:
            self.points.clear()
        if not self.points or step > self.points[-1][0]:
            self.points.append((step, time_seconds))
        while len(self.points) > 2 and time_seconds - self.points[0][1] > self.window_seconds:
            self.points.popleft()

    def seconds_left(self, total_steps: int | None) -> float | None:
        """Return the estimated time of the remaining steps; None if there is no estimate yet."""
        if total_steps is None or len(self.points) < 2:
            return None
        (first, first_time), (last, last_time) = self.points[0], self.points[-1]
        if last_time - first_time < _MIN_SECONDS:
            return None
        return max(total_steps - last, 0) * (last_time - first_time) / (last - first)


def remaining_text(seconds_left: float | None, now: float | None = None) -> str:
    """Return `12 min 30 s left, until 14:05 UTC`, in this machine's time zone; empty if the time is unknown."""
    if seconds_left is None:
        return ""
    begin = datetime.fromtimestamp(time.time() if now is None else now).astimezone()
    end = datetime.fromtimestamp(begin.timestamp() + seconds_left).astimezone()
    day = "" if end.date() == begin.date() else f"{end:%d %b }"
    return f"{duration(seconds_left)} left, until {day}{end:%H:%M %Z}".replace("\u00a0", " ")


class ProgressReport:
    """Shows the progress of one stage after another, and the reason if a stage has to wait before it starts."""

    def __init__(self, run: str = "", terminal: Terminal | None = None) -> None:
        """Create a report of a run; by default it writes to the terminal of the command."""
        self.run = run
        self.terminal = terminal or current_terminal()
        self.stage = ""
        self.row: Row | None = None
        self.last: Measurement | None = None
        self.artifact, self.pace = _ProgressArtifact(""), Pace()
        self.next_artifact = self.next_line = 0.0

    def wait(self, reason: str) -> None:
        """Show the reason for waiting; may be called repeatedly while the run waits."""
        if reason != self.stage:
            if not self.artifact.key:
                self.artifact = _ProgressArtifact(_WAITING)
            get_run_logger().info(reason)
            self.terminal.line(reason)
            self.artifact.publish(0.0, reason)
        self.stage = reason

    def end_wait(self, text: str) -> None:
        """Show the end of the wait; nothing if the run did not wait."""
        if self.stage:
            get_run_logger().info(text)
            self.terminal.line(text)
            self.artifact.publish(100.0, text)
        self.stage = ""

    def start(self, stage: str) -> None:
        get_run_logger().info("%s started", stage)
        self.stage, self.last = stage, None
        self.row = self.terminal.open_row(self.run, stage)
        self.artifact, self.pace = _ProgressArtifact(stage.lower()), Pace()
        self.next_artifact, self.next_line = 0.0, time.monotonic() + _LINE_SECONDS

    def show(self, measured: list[Measurement]) -> None:
        """Show the last measurement, and the remaining time at the rate of the last minutes."""
        for measurement in measured:
            self.pace.add(measurement.step, measurement.time_seconds)
        last, now = measured[-1], time.monotonic()
        self.last = last
        is_last = last.step == last.total_steps
        remaining = "" if is_last else remaining_text(self.pace.seconds_left(last.total_steps))
        if self.row:
            self.row.show(last.step, last.total_steps, "  ".join(filter(None, (_figures(last), remaining))))
        if now >= self.next_line:
            get_run_logger().info("%s: %s", self.stage, _line(last, remaining))
            self.next_line = now + _LINE_SECONDS
        if last.total_steps and now >= self.next_artifact:
            self.artifact.publish(100 * last.step / last.total_steps, f"{self.stage}: {_line(last, remaining)}")
            self.next_artifact = now + _ARTIFACT_SECONDS

    def finish(self, text: str, *, whole: bool = True) -> None:
        """Show the end of the stage; if it is not `whole`, its progress stays unchanged."""
        get_run_logger().info("%s %s", self.stage, text)
        if self.row:
            is_training = self.last and not any(name.startswith(_COUNTED) for name in self.last.metrics)
            steps = f"{self.last.step} steps" if self.last and self.last.total_steps and is_training else ""
            details = filter(None, (text, steps, _figures(self.last) if self.last else ""))
            self.row.close("  ".join(details), "" if whole else "red")
        self.row = None
        if self.artifact.id:
            self.artifact.publish(100.0 if whole else self.artifact.percent, f"{self.stage} {text}")


class _ProgressArtifact:
    """A progress artifact in Prefect, created by its first update."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.percent = 0.0
        self.id: UUID | None = None

    def publish(self, percent: float, description: str) -> None:
        self.percent = percent
        with suppress(httpx.HTTPError):  # a failed display must not stop the run
            if self.id is None:
                created = create_progress_artifact(percent, key=self.key, description=description)
                self.id = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self.id, percent, description=description)


def _line(measurement: Measurement, remaining: str) -> str:
    parts = (f"step {measurement.step} of {measurement.total_steps or '?'}", _figures(measurement), remaining)
    return "  ".join(filter(None, parts))


def _figures(measurement: Measurement) -> str:
    """Return loss, rate and padding of a training; empty for other stages."""
    shown = {name: measurement.metrics[name] for name in _SHOWN if name in measurement.metrics}
    return "  ".join(_SHOWN[name].format(value) for name, value in shown.items())
