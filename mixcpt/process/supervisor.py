"""Runs a heavy command in a session of its own so that nothing of it outlives the process that asked for it.

Between the caller and the command stands a small supervisor process,
`python -m mixcpt.process.supervisor FD -- COMMAND...`:

    caller --(pipe, write end)      supervisor --(pipe, read end)      command, its children, ...
              its own session               leader of a new session, adopts what its children leave behind

Only the caller has the write end. When it closes the pipe, or dies in whatever way (`kill -9` included), the supervisor
reads the end of the file, sends SIGTERM to everything below it, waits a grace time, and sends SIGKILL to the rest.
"""

import ctypes
import functools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

from mixcpt.errors import MixcptError

GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_LOG_LINES = 15


def log_tail(log: Path) -> str:
    """Returns the last lines of a command's log, indented, below a line that names it."""
    return f"the end of {log}:\n{quoted_tail(log.read_text(errors='replace'))}"


def quoted_tail(text: str) -> str:
    """Returns the last lines of what a command said, indented."""
    return "\n".join(f"  | {line}" for line in text.splitlines()[-_LOG_LINES:])


def module_path(root: Path) -> str:
    """Returns the PYTHONPATH with which `python -m` finds the flows and tasks of a checkout before all others."""
    return os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))


@runtime_checkable
class Supervisor(Protocol):
    """The process above all processes of a command."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code of the command; raises `TimeoutExpired`."""

    def terminate(self) -> None: ...


def follow(
    supervisor: Supervisor,
    *,
    on_tick: Callable[[], None] = lambda: None,
    tick_seconds: float = 1.0,
    timeout_seconds: float = 0,
    should_stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[int], None] = lambda process_id: None,
) -> int:
    """Returns the exit code of a supervised command (128 + the signal's number where a signal ended it).

    Args:
        supervisor: Of the command.
        on_tick: Called every `tick_seconds`, and once more after the end.
        tick_seconds: Seconds between two looks.
        timeout_seconds: Longest run; 0 sets no limit.
        should_stop: Asked at every tick; True ends the command.
        on_start: Called once with the process id of the supervisor, below which all of the command runs.

    Raises:
        MixcptError: If the command took longer than `timeout_seconds`.
    """
    started = time.monotonic()
    on_start(supervisor.pid)
    while (code := _wait(supervisor, tick_seconds)) is None:
        on_tick()
        if timeout_seconds and time.monotonic() - started > timeout_seconds:
            raise MixcptError(
                f"stopped after {timeout_seconds:g} seconds, the limit that runtime.timeout_seconds sets",
                "raise runtime.timeout_seconds; a new run goes on from the last checkpoint",
            )
        if should_stop():
            supervisor.terminate()
            code = supervisor.wait()
            break
    on_tick()
    return code


@contextmanager
def supervised(
    command: Sequence[str],
    *,
    log_path: Path,
    environment: Mapping[str, str],
    grace_seconds: float = GRACE_SECONDS,
    working_directory: Path | None = None,
    keep_open: Sequence[int] = (),
) -> Iterator["subprocess.Popen[bytes]"]:
    """Yields the supervisor of `command`, running in the background; on leaving, in whatever way, all of it has ended.

    The yielded process ends with the exit code of `command`; its `terminate()` stops `command` and its descendants.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()  # neither is inherited by other children of this process (PEP 446)
    with log_path.open("ab") as log, os.fdopen(read_end), os.fdopen(write_end, "w") as lifeline:
        process = subprocess.Popen(
            [sys.executable, "-m", "mixcpt.process.supervisor", str(read_end), str(grace_seconds), "--", *command],
            pass_fds=(read_end, *keep_open),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            cwd=working_directory,
        )
        try:
            yield process
        finally:
            lifeline.close()
            process.wait()


def _wait(supervisor: Supervisor, seconds: float) -> int | None:
    try:
        return supervisor.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def supervise(read_end: int, grace_seconds: float, start: Callable[[], int]) -> int:
    """Returns the exit code of the child that `start` makes; ends it early when `read_end` reports the end of the file,
    or at SIGTERM."""
    asked_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    os.set_inheritable(read_end, False)
    _adopt_orphans()
    child = start()
    status = None
    while status is None and not asked_to_stop:
        status = _reap().get(child)
        readable, _, _ = select.select([read_end], [], [], _POLL_SECONDS if status is None else 0)
        asked_to_stop = asked_to_stop or bool(readable)
    last = _end_descendants(grace_seconds).get(child)
    return _exit_code(status if status is not None else last)


def _adopt_orphans() -> None:
    """Makes the kernel hand us the children of our dead children (Linux); elsewhere the process group has to do."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Sets what `top` and `ps` call this process, 15 characters (Linux)."""
    _prctl(_PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _reap() -> dict[int, int]:
    """Returns the wait status of each child that has ended since the last call."""
    ended: dict[int, int] = {}
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if child == 0:
            return ended
        ended[child] = status


def _end_descendants(grace_seconds: float) -> dict[int, int]:
    """Returns the wait statuses of what was left below us, all of it ended now: politely first, then by force."""
    ended: dict[int, int] = {}
    deadline = time.monotonic() + grace_seconds
    _signal(_descendants(), signal.SIGTERM)
    while _descendants():
        ended |= _reap()
        if time.monotonic() > deadline:
            _signal(_descendants(), signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return ended | _reap()


def _signal(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def _descendants() -> set[int]:
    """Returns every living process below this one, in whatever session or group it has put itself."""
    parents = _parents()
    found: set[int] = set()
    generation = {os.getpid()}
    while generation := {process for process, parent in parents.items() if parent in generation} - found:
        found |= generation
    return found


def _parents() -> dict[int, int]:
    """Returns the parent of each living process of the machine."""
    if sys.platform == "linux":
        stats = (_read_stat(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return {process: parent for process, parent, state in filter(None, stats) if state != "Z"}
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,comm="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=3) for line in listing.splitlines())
    return {int(row[0]): int(row[1]) for row in rows if row[2][0] != "Z" and not row[3].endswith("ps")}


def _read_stat(entry: Path) -> tuple[int, int, str] | None:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()  # the name before may hold spaces and brackets
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(entry.name), int(fields[1]), fields[0]


def _exit_code(status: int | None) -> int:
    if status is None:
        return 128 + signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    read_end, grace_seconds, separator, *command = sys.argv[1:]
    start = functools.partial(os.posix_spawnp, command[0], command, os.environ)
    raise SystemExit(supervise(int(read_end), float(grace_seconds), start))
