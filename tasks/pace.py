"""How fast a stage goes, and when it will be over."""

import time
from collections import deque
from datetime import datetime

from mixcpt.report.words import duration

_WINDOW_SECONDS = 300.0


class Pace:
    """The steps of the last minutes: an estimate from all of them would remember a slow start for hours."""

    def __init__(self, window_seconds: float = _WINDOW_SECONDS) -> None:
        self.window_seconds = window_seconds
        self.points: deque[tuple[int, float]] = deque()

    def add(self, step: int, time_seconds: float) -> None:
        """Notes when a step was reached, as Unix time; a step before the last one begins anew after a resume."""
        if self.points and step < self.points[-1][0]:
            self.points.clear()
        if not self.points or step > self.points[-1][0]:
            self.points.append((step, time_seconds))
        while len(self.points) > 2 and time_seconds - self.points[0][1] > self.window_seconds:
            self.points.popleft()

    def seconds_left(self, total_steps: int | None) -> float | None:
        """Returns how long the steps that are left take at this rate; None where that is not known yet."""
        if total_steps is None or len(self.points) < 2:
            return None
        (first, began), (last, ended) = self.points[0], self.points[-1]
        return max(total_steps - last, 0) * (ended - began) / (last - first)


def ending(seconds_left: float | None, now: float | None = None) -> str:
    """Returns `12 min 30 s left, until 14:05 UTC`, in this machine's time zone; nothing where it is not known."""
    if seconds_left is None:
        return ""
    begin = datetime.fromtimestamp(time.time() if now is None else now).astimezone()
    end = datetime.fromtimestamp(begin.timestamp() + seconds_left).astimezone()
    day = "" if end.date() == begin.date() else f"{end:%d %b }"
    return f"{duration(seconds_left)} left, until {day}{end:%H:%M %Z}".replace("\u00a0", " ")
