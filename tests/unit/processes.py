"""How tests wait for processes, and see whether one is left."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for what has to happen in this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def pids(path: Path) -> list[int]:
    """Returns the process ids in a file, once somebody has written them."""
    wait_until(lambda: path.exists() and bool(path.read_text()))
    return [int(pid) for pid in path.read_text().split()]


def alive(pid: int) -> bool:
    """Returns whether a process runs; one that nobody has waited for yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
