"""Run a command under a supervisor, so that none of its processes outlives the caller.

The caller starts the supervisor, `python -m mixcpt.process.supervisor FD GRACE_SECONDS -- COMMAND...`, and the
supervisor starts the command:

    caller (write end of a pipe) -> supervisor (read end; leader of a new session) -> command -> its children ...

Only the caller has the write end. If it closes the pipe or dies (`kill -9` included), the supervisor reads the end of
the file, sends SIGTERM to all processes below it, waits a grace time, and sends SIGKILL to the rest. The supervisor
adopts orphans of the command, so it finds them too.
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
from contextlib import contextmanager, suppress
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
    """Return the last lines of a log, indented, below its path."""
    if not log.is_file():
        return f"it wrote no log ({log})"
    return f"last lines of {log}:\n{quoted_tail(log.read_text(errors='replace'))}"


def quoted_tail(text: str) -> str:
    """Return the last lines of a command's output, indented."""
    return "\n".join(f"  | {line}" for line in text.splitlines()[-_LOG_LINES:])


@runtime_checkable
class Supervisor(Protocol):
    """Parent process of a command and all its processes."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command and return its exit code; raise `TimeoutExpired` after `timeout` seconds."""

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
    """Wait for a supervised command and return its exit code (128 + signal number if a signal ended it).

    Args:
        supervisor: Supervisor of the command.
        on_tick: Called every `tick_seconds`, and once after the end.
        tick_seconds: Seconds between two ticks.
        timeout_seconds: Maximum duration; 0 sets no limit.
        should_stop: Called at every tick; True ends the command.
        on_start: Called once with the process id of the supervisor, the root of the command's process tree.

    Raises:
        MixcptError: If the command took longer than `timeout_seconds`.
    """
    started = time.monotonic()
    on_start(supervisor.pid)
    while (code := _wait(supervisor, tick_seconds)) is None:
        on_tick()
        if timeout_seconds and time.monotonic() - started > timeout_seconds:
            raise MixcptError(
                f"stopped after {timeout_seconds:g} seconds, the limit of runtime.timeout_seconds",
                "increase runtime.timeout_seconds; a new run resumes from the last checkpoint",
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
    """Start `command` in the background and yield its supervisor; all its processes have ended when the block is left.

    The yielded process ends with the exit code of `command`; its `terminate()` stops `command` and its descendants.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()  # not inherited by other children of this process (PEP 446)
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
    """Run the child that `start` creates and return its exit code.

    The child and its descendants are ended early at the end of the file `read_end`, or at SIGTERM.
    """
    should_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal should_stop
        should_stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    os.set_inheritable(read_end, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # becomes the parent of orphans, so that `_descendants` finds them
    child = start()
    status = None
    while status is None and not should_stop:
        status = _reap().get(child)
        readable, _, _ = select.select([read_end], [], [], _POLL_SECONDS if status is None else 0)
        should_stop = should_stop or bool(readable)
    late_status = _end_descendants(grace_seconds).get(child)
    return _exit_code(status if status is not None else late_status)


def name_process(name: str) -> None:
    """Set the name of this process in `top` and `ps`, at most 15 characters (only on Linux)."""
    _prctl(_PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _reap() -> dict[int, int]:
    """Reap the children that have ended since the last call, and return their wait statuses."""
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
    """End all descendants, with SIGTERM and after the grace time with SIGKILL, and return their wait statuses."""
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
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _descendants() -> set[int]:
    """Find every living process below this one, in any session or process group."""
    parents = _parents()
    descendants: set[int] = set()
    generation = {os.getpid()}
    while generation := {process for process, parent in parents.items() if parent in generation} - descendants:
        descendants |= generation
    return descendants


def _parents() -> dict[int, int]:
    """Map every living process of the machine to its parent."""
    if sys.platform == "linux":
        stats = (_read_stat(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return {process: parent for process, parent, state in filter(None, stats) if state != "Z"}
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,comm="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=3) for line in listing.splitlines())
    return {int(row[0]): int(row[1]) for row in rows if row[2][0] != "Z" and not row[3].endswith("ps")}


def _read_stat(entry: Path) -> tuple[int, int, str] | None:
    try:
        # the fields after the last bracket: the name in front of it may contain spaces and brackets
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
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
