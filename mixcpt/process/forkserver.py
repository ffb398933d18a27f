"""Processes that start at once: a server imports the libraries, and forks itself for each call.

    caller --(lifeline)-- supervisor -- server, libraries imported
                                           \\ fork
    caller --(lifeline of the call)------- supervisor of the call -- the call

The server of the standard library's `multiprocessing` would leave its children behind when the caller is killed. Here
a call stands below a supervisor of its own, as a command does (`mixcpt.process.supervisor`): it ends when its
caller does.

Not for calls that compute on a GPU: what has touched CUDA cannot be forked.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mixcpt.errors import StageInterrupted
from mixcpt.process.supervisor import GRACE_SECONDS, name_process, supervise, supervised

_MAX_MESSAGE_BYTES = 2**18
_MAX_DESCRIPTORS = 64
_NUMBER = struct.Struct("i")
_DEAD = "the process that stages are forked from has died", "its log is in the store, under logs; try again"


class ForkServer:
    """A running server; it is ready when its first call begins."""

    def __init__(self, modules: Sequence[str], *, log_path: Path, environment: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            modules: What it imports, by name; nothing that starts threads or touches a GPU.
            log_path: File to which its own output is appended.
            environment: Variables on top of this process's own, those that are read at import among them.
        """
        self._processes = ExitStack()
        self._turn = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection = self._processes.enter_context(ours)
        with theirs:
            command = [sys.executable, "-m", "mixcpt.process.forkserver", str(theirs.fileno()), *modules]
            server = supervised(command, log_path=log_path, environment=environment, keep_open=(theirs.fileno(),))
            self._server = self._processes.enter_context(server)

    @property
    def lives(self) -> bool:
        return self._server.poll() is None

    def close(self) -> None:
        """Ends the server and every call that is under way."""
        self._processes.close()

    @contextmanager
    def call(
        self,
        function: str,
        argument: str,
        *,
        log_path: Path,
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
    ) -> Iterator["Call"]:
        """Yields a call under way in a process of its own, as `supervised` does with a command.

        Args:
            function: `module:name` of what is called; it returns an exit code.
            argument: What it gets.
            log_path: File to which output and errors are appended.
            environment: Variables on top of this process's own.
            keep_open: File descriptors that stay open while the call lives, such as locks.

        Raises:
            StageInterrupted: If the server has died.
        """
        request = {
            "function": function,
            "argument": argument,
            "environment": {**os.environ, **environment},
            "folder": str(Path.cwd()),
        }
        log_path.parent.mkdir(parents=True, exist_ok=True)
        read_end, write_end = os.pipe()
        status, told = os.pipe()
        with os.fdopen(write_end, "w") as lifeline, os.fdopen(status, "rb", buffering=0) as answers:
            with log_path.open("ab") as log, os.fdopen(read_end), os.fdopen(told):
                self._send(json.dumps(request).encode(), [read_end, told, log.fileno(), *keep_open])
            process = Call(answers.fileno())
            try:
                yield process
            finally:
                lifeline.close()
                process.wait()

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        try:
            with self._turn:
                socket.send_fds(self._connection, [message], descriptors)
        except OSError as error:
            raise StageInterrupted(*_DEAD) from error


class Call:
    """The supervisor of a call; what is used of a `Popen`."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._code: int | None = None
        process_id = self._read()
        if process_id is None:
            raise StageInterrupted(*_DEAD)
        self.pid = process_id

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code; raises `TimeoutExpired` where there is none after so many seconds."""
        if self._code is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked call", timeout or 0.0)
            code = self._read()
            self._code = 128 + signal.SIGKILL if code is None else code
        return self._code

    def terminate(self) -> None:
        """Asks for the end of the call and all below it."""
        if self._code is None:
            os.kill(self.pid, signal.SIGTERM)

    def _read(self) -> int | None:
        """Returns the next number that the supervisor tells, None where it has ended without."""
        read = os.read(self._status, _NUMBER.size)
        return int(_NUMBER.unpack(read)[0]) if read else None


def serve(connection: socket.socket, modules: Sequence[str]) -> None:
    """Imports the modules, and forks for every request until the caller has closed the connection."""
    gc.disable()  # there is no garbage yet, and looking for it takes a fifth of the time
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # calls neither go through these objects again and again, nor copy their pages for it
    gc.enable()
    signal.signal(signal.SIGCHLD, _forget_the_dead)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MAX_MESSAGE_BYTES, _MAX_DESCRIPTORS)
        if not message:
            return
        if os.fork() == 0:
            connection.close()
            _supervise_call(json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _forget_the_dead(number: int, frame: FrameType | None) -> None:
    """Reaps what has ended: nobody else waits for it, and only so is its time counted as its parents'."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _supervise_call(request: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Becomes the supervisor of a call; what is behind the first three descriptors is kept open, and no more."""
    read_end, status, log, *_ = descriptors
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.write(status, _NUMBER.pack(os.getpid()))
        code = supervise(read_end, GRACE_SECONDS, lambda: _fork_call(request, (read_end, status)))
    except BaseException:  # noqa: BLE001 a fork must not go on with what its parent was doing
        traceback.print_exc()
    finally:
        with suppress(BrokenPipeError):  # whose caller has died is ended too, and has nobody to tell
            os.write(status, _NUMBER.pack(code))
        os._exit(code)


def _fork_call(request: Mapping[str, Any], of_supervisor: Sequence[int]) -> int:
    """Returns the process id of the call; in that process, makes it and ends."""
    if child := os.fork():
        return child
    code = 1
    try:
        for descriptor in of_supervisor:
            os.close(descriptor)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        module, _, name = request["function"].partition(":")
        name_process(f"mixcpt-{module.rpartition('.')[2]}")
        code = getattr(importlib.import_module(module), name)(request["argument"])
    except BaseException:  # noqa: BLE001 a fork must not go on with what its parent was doing
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    descriptor, *names = sys.argv[1:]
    serve(socket.socket(fileno=int(descriptor)), names)
