"""The servers of one machine, as child processes: what `mixcpt up` starts, and what a single run needs."""

import json
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen
from types import FrameType

from mixcpt.errors import ConfigError, MixcptError
from mixcpt.process.devices import usable_devices
from mixcpt.process.supervisor import log_tail, module_path, supervised
from mixcpt.servers.deployment import POOL, UPKEEP_POOL, deploy

HOST = "127.0.0.1"
_START_SECONDS = 600.0
_POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 30
"""How often a run of ours says that it lives; Prefect allows no less."""
DEFAULT_HEARTBEAT_SECONDS = 180
"""How often any other run on the same server says so, by Prefect's own setting."""


@dataclass(frozen=True)
class Stack:
    """Where a running stack listens."""

    prefect: str
    mlflow: str

    @property
    def api(self) -> str:
        return f"{self.prefect}/api"


def run_stack(
    store: Path, *, root: Path, prefect_port: int, mlflow_port: int, slots: int = 0, global_slots: int = 0
) -> None:
    """Runs Prefect server, MLflow server and a worker until Ctrl-C or SIGTERM, and stops all of them.

    Args:
        store: Folder of the artifact store; the databases of both servers lie there too.
        root: The checkout, in which the runs of the worker work.
        prefect_port: Port of the Prefect server.
        mlflow_port: Port of the MLflow server.
        slots: Runs of adaptations, rounds and comparisons at a time; 0 for as many as there are GPUs, and at least one.
        global_slots: GPUs that the runs of all workers together may take; 0 leaves the bound as it is.

    Raises:
        ConfigError: If a port is taken.
        MixcptError: If a server does not start, or one of them ends.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    with (
        suppress(KeyboardInterrupt),
        running_stack(store, root, prefect_port, mlflow_port, slots=slots, global_slots=global_slots) as (
            stack,
            processes,
        ),
    ):
        print(f"Prefect   {stack.prefect}   Deployments, adapt, Custom run")
        print(f"MLflow    {stack.mlflow}")
        print(f"store     {store}")
        print("Ctrl-C stops them all", flush=True)
        _wait_for_the_end(processes)


@contextmanager
def running_stack(
    store: Path,
    root: Path,
    prefect_port: int,
    mlflow_port: int,
    *,
    slots: int = 0,
    global_slots: int = 0,
    presets: bool = True,
) -> Iterator[tuple[Stack, dict[str, "Popen[bytes]"]]]:
    """Yields the addresses and the processes of a stack that is ready to take runs; stops them on leaving."""
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
        "PWD": str(root),
        "PYTHONPATH": module_path(root),
    }
    with ExitStack() as processes:

        def start(name: str, *arguments: str) -> tuple["Popen[bytes]", Path]:
            log = store / "logs" / f"{name}.txt"
            command = [sys.executable, "-m", *arguments]
            running = supervised(command, log_path=log, environment=environment, working_directory=root)
            return processes.enter_context(running), log

        prefect, prefect_log = start("prefect-server", *_prefect_server(prefect_port))
        mlflow, mlflow_log = start("mlflow-server", *_mlflow_server(store, mlflow_port))
        wait_until_healthy("the Prefect server", f"{stack.api}/health", prefect, prefect_log)
        wait_until_healthy("the MLflow server", f"{stack.mlflow}/health", mlflow, mlflow_log)
        deploy(stack.api, store, root=root, environment=environment, presets=presets)
        if global_slots:
            setup, log = start("setup", "deployments.slots", str(global_slots))
            if setup.wait():
                raise MixcptError(f"the limit of GPUs could not be set\n{log_tail(log)}")
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
    """Returns the API address of the stack that `mixcpt up` runs on this store; empty where none answers."""
    try:
        stack = Stack(**json.loads(_note(store).read_text()))
    except FileNotFoundError:
        return ""
    return stack.api if _get(f"{stack.api}/health") is not None else ""


def _note(store: Path) -> Path:
    return store / "stack.json"


def _worker(pool: str, name: str) -> tuple[str, ...]:
    return ("prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name)


def _prefect_server(port: int) -> tuple[str, ...]:
    return ("prefect", "server", "start", "--host", HOST, "--port", str(port))


def _mlflow_server(store: Path, port: int) -> tuple[str, ...]:
    """Returns the server on the database that runs without a server use too; files stay below the store."""
    places = ("--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}", "--no-serve-artifacts")
    artifacts = ("--default-artifact-root", (store / "mlartifacts").as_uri())
    return ("mlflow", "server", *places, *artifacts, "--host", HOST, "--port", str(port), "--workers", "1")


def _wait_for_the_end(processes: dict[str, "Popen[bytes]"]) -> None:
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise MixcptError(f"{name} ended with code {process.returncode}", "its log is in the store, under logs")
        time.sleep(1.0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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
        # in files below PREFECT_HOME: a server that keeps leases in memory forgets at a restart who is to free a slot
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
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


def wait_until_healthy(
    name: str, url: str, process: "Popen[bytes]", log: Path, is_ready: Callable[[bytes], bool] = lambda answer: True
) -> None:
    """Waits until `url` answers, and says what `is_ready` wants to hear.

    Raises:
        MixcptError: With the end of its log, if the process ended or the time is over.
    """
    deadline = time.monotonic() + _START_SECONDS
    while (answer := _get(url)) is None or not is_ready(answer):
        if process.poll() is not None or time.monotonic() > deadline:
            raise MixcptError(f"{name} did not start\n{log_tail(log)}")
        time.sleep(_POLL_SECONDS)


def _is_ready(work_pool: bytes) -> bool:
    """Returns whether a worker polls the pool."""
    return bool(json.loads(work_pool)["status"] == "READY")


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bytes(response.read())
    except OSError:  # refused, reset, timed out, or an answer other than 200
        return None
