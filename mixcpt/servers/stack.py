"""Start Prefect and MLflow servers and workers as child processes, and notify them of a new corpus."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

from mixcpt.errors import ConfigError, MixcptError
from mixcpt.process.devices import usable_devices
from mixcpt.process.supervisor import log_tail, supervised
from mixcpt.servers.deployment import POOL, PROJECT_ROOT, UPKEEP_POOL, deploy, module_path

if TYPE_CHECKING:
    from mixcpt.rounds.registration import Delivery

HOST = "127.0.0.1"
EVENT = "mixcpt.corpus.registered"
_EVENT_SECONDS = 120
_START_SECONDS = 600.0
_POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 30
"""Seconds between two heartbeats of a run of `mixcpt up`; the minimum that Prefect allows."""
DEFAULT_HEARTBEAT_SECONDS = 180
"""Seconds between two heartbeats of other runs, the default of Prefect."""


@dataclass(frozen=True)
class Stack:
    """Addresses of the servers of a running stack."""

    prefect: str
    mlflow: str

    @property
    def api(self) -> str:
        return f"{self.prefect}/api"


def run_stack(store: Path, *, prefect_port: int, mlflow_port: int, slots: int = 0, global_slots: int = 0) -> None:
    """Run a Prefect server, an MLflow server and workers until Ctrl-C or SIGTERM.

    Args:
        store: Folder of the artifact store, with the databases of both servers.
        prefect_port: Port of the Prefect server.
        mlflow_port: Port of the MLflow server.
        slots: Number of runs at the same time; 0 means one per GPU, and at least one.
        global_slots: Maximum number of GPUs for the runs of all workers; 0 keeps the present limit.

    Raises:
        ConfigError: If a port is in use.
        MixcptError: If a server does not start, or ends.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = running_stack(store, prefect_port, mlflow_port, slots=slots, global_slots=global_slots)
    with suppress(KeyboardInterrupt), servers as (stack, processes):
        print(f"Prefect   {stack.prefect}   Deployments, adapt, Custom run")
        print(f"MLflow    {stack.mlflow}")
        print(f"store     {store}")
        print("Ctrl-C stops all of them", flush=True)
        _wait_for_the_end(processes)


@contextmanager
def running_stack(
    store: Path, prefect_port: int, mlflow_port: int, *, slots: int = 0, global_slots: int = 0, presets: bool = True
) -> Iterator[tuple[Stack, dict[str, "Popen[bytes]"]]]:
    """Start a stack and yield its addresses and processes; stop them when the block is left."""
    require_free(prefect_port, "--prefect-port")
    require_free(mlflow_port, "--mlflow-port")
    store = store.expanduser().resolve()
    stack = Stack(f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}")
    environment = prefect_environment(store) | {
        "PREFECT_API_URL": stack.api,
        "MLFLOW_TRACKING_URI": stack.mlflow,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "mixcpt",
        "PWD": str(PROJECT_ROOT),
        "PYTHONPATH": module_path(),
    }
    with ExitStack() as processes:

        def start(name: str, *arguments: str) -> tuple["Popen[bytes]", Path]:
            log = store / "logs" / f"{name}.txt"
            command = [sys.executable, "-m", *arguments]
            running = supervised(command, log_path=log, environment=environment, working_directory=PROJECT_ROOT)
            return processes.enter_context(running), log

        prefect, prefect_log = start("prefect-server", *_prefect_server(prefect_port))
        mlflow, mlflow_log = start("mlflow-server", *_mlflow_server(store, mlflow_port))
        wait_until_healthy("the Prefect server", f"{stack.api}/health", prefect, prefect_log)
        wait_until_healthy("the MLflow server", f"{stack.mlflow}/health", mlflow, mlflow_log)
        deploy(stack.api, store, environment=environment, presets=presets)
        if global_slots:
            setup, log = start("setup", "deployments.slots", str(global_slots))
            if setup.wait():
                raise MixcptError(f"setting the limit of {global_slots} GPUs failed\n{log_tail(log)}")
        limit = str(slots or max(1, len(usable_devices())))
        workers = {
            POOL: start("worker", *_worker(POOL, "mixcpt-worker"), "--limit", limit),
            UPKEEP_POOL: start("upkeep-worker", *_worker(UPKEEP_POOL, "mixcpt-upkeep-worker")),
        }
        for pool, (worker, log) in workers.items():
            wait_until_healthy(f"the worker of {pool}", f"{stack.api}/work_pools/{pool}", worker, log, _is_ready)
        processes.callback(_note(store).unlink, missing_ok=True)
        _note(store).write_text(json.dumps(asdict(stack)))
        polling = {f"the worker of {pool}": worker for pool, (worker, _) in workers.items()}
        yield stack, {"the Prefect server": prefect, "the MLflow server": mlflow, **polling}


def running_api(store: Path) -> str:
    """Query the stack of `mixcpt up` on this store and return its API address; empty if there is no answer."""
    try:
        stack = Stack(**json.loads(_note(store).read_text()))
    except FileNotFoundError:
        return ""
    return stack.api if _get(f"{stack.api}/health") is not None else ""


def announce(delivery: "Delivery", store: Path) -> str:
    """Notify the configured Prefect server, or that of `mixcpt up`, and return a sentence about the result.

    Re-adaptations also find the corpus in the store.
    """
    later = "the next scheduled or manual re-adaptation finds it"
    api = os.environ.get("PREFECT_API_URL", "") or running_api(store)
    if not api:
        return f"no Prefect server is running; {later}"
    payload = {"corpus": delivery.name, "fingerprint": delivery.ref.fingerprint, "documents": delivery.num_documents}
    resource = ("--resource-id", f"mixcpt.corpus.{delivery.name}")
    command = [sys.executable, "-m", "prefect", "event", "emit", EVENT, *resource, "--payload", json.dumps(payload)]
    environment = {**os.environ, **prefect_environment(store), "PREFECT_API_URL": api}
    try:
        emitted = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_EVENT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the Prefect server at {api} did not answer within {_EVENT_SECONDS} seconds; {later}"
    if emitted.returncode:
        return f"the Prefect server at {api} refused the event ({emitted.stderr.strip()[-200:]}); {later}"
    return f"notified the Prefect server at {api}: event {EVENT}"


def _note(store: Path) -> Path:
    return store / "stack.json"


def _worker(pool: str, name: str) -> tuple[str, ...]:
    return ("prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name)


def _prefect_server(port: int) -> tuple[str, ...]:
    return ("prefect", "server", "start", "--host", HOST, "--port", str(port))


def _mlflow_server(store: Path, port: int) -> tuple[str, ...]:
    """Return the arguments of a server on the same database as runs without a server, with its files in the store."""
    database = ("--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}", "--no-serve-artifacts")
    artifacts = ("--default-artifact-root", (store / "mlartifacts").as_uri())
    return ("mlflow", "server", *database, *artifacts, "--host", HOST, "--port", str(port), "--workers", "1")


def _wait_for_the_end(processes: dict[str, "Popen[bytes]"]) -> None:
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                problem = f"{name} ended with code {process.returncode}"
                raise MixcptError(problem, "read its log in the folder logs of the store")
        time.sleep(1.0)


@contextmanager
def temporary_prefect_server(store: Path) -> Iterator[str]:
    """Start a Prefect server on a free port and yield its API address; it ends with this block or process.

    Its database is in the store, so that `mixcpt up` shows the run later. Prefect's own temporary server uses the same
    command, but outlives a killed process.
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
    """Return the settings of a Prefect server with its database in the store and without telemetry."""
    return {
        "PREFECT_HOME": str(store / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{store / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # in files below PREFECT_HOME: leases in memory are lost at a restart, and their slots are never released
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "DO_NOT_TRACK": "1",
    }


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(port: int, option: str) -> None:
    """Raise `ConfigError` if the port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {HOST} cannot be used: {error.strerror}",
                f"stop the program that uses it (another `mixcpt up`?), or choose another port with {option}",
            ) from None


def wait_until_healthy(
    name: str, url: str, process: "Popen[bytes]", log: Path, is_ready: Callable[[bytes], bool] = lambda answer: True
) -> None:
    """Wait until `url` answers and `is_ready` accepts the answer.

    Raises:
        MixcptError: If the process ends or the time is over, with the last lines of its log.
    """
    deadline = time.monotonic() + _START_SECONDS
    while (answer := _get(url)) is None or not is_ready(answer):
        if process.poll() is not None or time.monotonic() > deadline:
            raise MixcptError(f"{name} did not start\n{log_tail(log)}")
        time.sleep(_POLL_SECONDS)


def _is_ready(work_pool: bytes) -> bool:
    """Return whether a worker polls the pool."""
    return bool(json.loads(work_pool)["status"] == "READY")


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bytes(response.read())
    except OSError:  # refused, reset, timed out, or an answer other than 200
        return None
