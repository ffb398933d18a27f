"""How tests find the processes that compute."""

from pathlib import Path

import psutil


def is_worker(process: psutil.Process) -> bool:
    """Returns whether a process runs a batch of stages: forked, it has that name; started anew, that command."""
    command = process.cmdline()
    return process.name() == "mixcpt.worker" or ("mixcpt.worker" in command and "mixcpt.supervisor" not in command)


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
