"""A pool of worker processes that import the libraries once and then run one batch after another.

flow process --(pipe: paths of batches)---> worker process
             <--(pipe: exit codes)--------- (child of a supervisor, which ends it with the flow process)
"""

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from mixcpt.process.supervisor import supervised
from mixcpt.stages.jobs import Batch

EXIT_CODE = struct.Struct("i")


class StayingWorker:
    """A worker process that waits for batches."""

    def __init__(self, command: list[str], *, log_path: Path, environment: Mapping[str, str]) -> None:
        """Start the process; `command` gets the descriptors of the two pipes as its last arguments."""
        self._stack = ExitStack()
        # Its end is a signal, after which libraries clean nothing up: their temporary files get a folder of their own.
        temporary = self._stack.enter_context(TemporaryDirectory(prefix="mixcpt-worker-", ignore_cleanup_errors=True))
        requests, self._requests = os.pipe()
        self._codes, codes = os.pipe()
        process = supervised(
            [*command, str(requests), str(codes)],
            log_path=log_path,
            environment={**environment, "TMPDIR": temporary},
            keep_open=(requests, codes),
        )
        self._supervisor = self._stack.enter_context(process)
        for inherited, own in ((requests, self._requests), (codes, self._codes)):
            os.close(inherited)
            self._stack.callback(os.close, own)
        self._code: int | None = 0
        self._has_died = False

    @property
    def pid(self) -> int:
        return self._supervisor.pid

    @property
    def is_idle(self) -> bool:
        """Whether the process is alive and runs no batch."""
        return self._code is not None and not self._has_died and self._supervisor.poll() is None

    def start(self, batch: Batch) -> None:
        """Send a batch to the process; `wait` waits for its end."""
        self._code = None
        with suppress(BrokenPipeError):  # the process has died, and `wait` returns 137
            os.write(self._requests, f"{batch.path}\n".encode())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the batch and return its exit code; 137 if the process died.

        Raises:
            TimeoutExpired: If the batch has not ended after `timeout` seconds.
        """
        if self._code is None:
            if not select.select([self._codes], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("batch", timeout or 0.0)
            code = os.read(self._codes, EXIT_CODE.size)
            self._has_died = not code
            self._code = 128 + signal.SIGKILL if self._has_died else EXIT_CODE.unpack(code)[0]
        return self._code

    def terminate(self) -> None:
        """End the process and the batch that it runs."""
        self._supervisor.terminate()

    def close(self) -> None:
        """End the process and wait for its end."""
        self._stack.close()


class WorkerPool:
    """The staying workers of this process by environment variables; threads use different workers."""

    def __init__(self, module: str) -> None:
        """Create an empty pool of workers that run `python -m module --stay`."""
        self._command = [sys.executable, "-m", module, "--stay"]
        self._idle: defaultdict[str, list[StayingWorker]] = defaultdict(list)
        self._lock = threading.Lock()
        atexit.register(self.close)

    def prepare(self, store: Path, environment: Mapping[str, str]) -> None:
        """Start a worker, if none is idle, so that it imports the libraries in the background."""
        with self._lock:
            idle = self._idle[_key(environment)]
            if not idle:
                idle.append(self._started(store, environment))

    @contextmanager
    def run(self, batch: Batch, environment: Mapping[str, str]) -> Iterator[StayingWorker]:
        """Start a batch and yield its worker; afterwards end the worker, or keep it if the batch has ended."""
        with self._lock:
            idle = self._idle[_key(environment)]
            while idle and not idle[-1].is_idle:  # it has died in the meantime
                idle.pop().close()
            worker = idle.pop() if idle else self._started(Path(batch.store), environment)
        worker.start(batch)
        try:
            yield worker
        finally:
            if worker.is_idle:
                with self._lock:
                    idle.append(worker)
            else:
                worker.close()

    def close(self) -> None:
        """End all idle workers."""
        with self._lock:
            for idle in self._idle.values():
                while idle:
                    idle.pop().close()

    def _started(self, store: Path, environment: Mapping[str, str]) -> StayingWorker:
        return StayingWorker(self._command, log_path=store / "logs" / "worker.txt", environment=environment)


def _key(environment: Mapping[str, str]) -> str:
    return json.dumps(dict(environment), sort_keys=True)
