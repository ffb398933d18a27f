"""How tests wait for processes, find those that compute, and see whether one is left."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_until(condition: Callable[[], bool], seconds: float = 500) -> None:
    """Waits for a process; fails where it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def pids(path: Path) -> list[int]:
    """Returns the process ids in a file, once somebody has written them."""
    wait_until(lambda: path.exists() and bool(path.read_text()), seconds=30)
    return [int(pid) for pid in path.read_text().split()]


def alive(pid: int) -> bool:
    """Returns whether a process runs; one that nobody has waited for yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_worker(process: psutil.Process) -> bool:
    """Return whether a process runs batches of stages."""
    command = process.cmdline()
    return "mixcpt.stages.worker" in command and "mixcpt.process.supervisor" not in command


def workers_of(store: Path) -> list[psutil.Process]:
    """Returns the processes that compute for a store, whoever started them: their log lies there."""
    found = []
    for process in psutil.process_iter():
        try:
            if is_worker(process) and any(Path(file.path).is_relative_to(store) for file in process.open_files()):
                found.append(process)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return found
