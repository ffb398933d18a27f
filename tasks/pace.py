"""Estimates the remaining time of a stage from the rate of its recent steps."""

import time
from collections import deque
from datetime import datetime

from mixcpt.report.words import duration

_WINDOW_SECONDS = 300.0


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
        return max(total_steps - last, 0) * (last_time - first_time) / (last - first)


def remaining_text(seconds_left: float | None, now: float | None = None) -> str:
    """Return `12 min 30 s left, until 14:05 UTC`, in this machine's time zone; empty if the time is unknown."""
    if seconds_left is None:
        return ""
    begin = datetime.fromtimestamp(time.time() if now is None else now).astimezone()
    end = datetime.fromtimestamp(begin.timestamp() + seconds_left).astimezone()
    day = "" if end.date() == begin.date() else f"{end:%d %b }"
    return f"{duration(seconds_left)} left, until {day}{end:%H:%M %Z}".replace("\u00a0", " ")
