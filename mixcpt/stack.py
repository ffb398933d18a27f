"""The servers of one machine, as child processes: what `mixcpt up` starts, and what a single run needs."""

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from mixcpt.errors import ConfigError, MixcptError
from mixcpt.supervisor import supervised

HOST = "127.0.0.1"
POOL = "mixcpt"
_START_SECONDS = 180.0
_POLL_SECONDS = 0.1
_LOG_LINES = 15


@contextmanager
def temporary_prefect_server(store: Path) -> Iterator[str]:
    """Yields the API address of a Prefect server on a free port; it ends with this block, or with this process.

    Its database lies in the store, so that `mixcpt up` shows the run later. The command is that of Prefect's own
    temporary server, which would outlive a killed process.
    """
    port = free_port()
    application = ["--factory", "prefect.server.api.server:create_app", "--host", HOST, "--port", str(port)]
    command = [sys.executable, "-m", "uvicorn", *application, "--log-level", "error", "--lifespan", "on"]
    ephemeral = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    log = store / "logs" / "prefect-server.txt"
    with supervised(command, log_path=log, environment=prefect_environment(store) | ephemeral) as process:
        wait_until_healthy("the Prefect server", f"http://{HOST}:{port}/api/health", process, log)
        yield f"http://{HOST}:{port}/api"


def prefect_environment(store: Path) -> dict[str, str]:
    """Returns the settings of a Prefect server whose database lies in the store and that calls nobody."""
    return {
        "PREFECT_HOME": str(store / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{store / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(port: int, option: str) -> None:
    """Raises `ConfigError` where something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {HOST} cannot be used: {error.strerror}",
                f"stop what runs there (another `mixcpt up`?), or choose another one with {option}",
            ) from None


def wait_until_healthy(name: str, url: str, process: "Popen[bytes]", log: Path) -> None:
    """Waits until `url` answers 200.

    Raises:
        MixcptError: With the end of its log, if the process ended or the time is over.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise MixcptError(f"{name} did not start; the end of {log}:\n" + "\n".join(f"  | {line}" for line in lines))
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
