"""Run the services of docker/compose.yaml as processes of this machine: same commands and environment, free ports.

PostgreSQL and an S3-compatible server (moto) are real. Container addresses are replaced by ports of 127.0.0.1, and
volumes by folders below `folder`. Images, networks, users and limits, which an engine adds, are not covered.
"""

import importlib.util
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from benchmarks import flow_runs
from mixcpt.config import Settings
from mixcpt.process.supervisor import supervised
from mixcpt.servers.stack import HOST, Stack, free_port, wait_until_healthy

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yaml"
_VARIABLE = re.compile(r"\$\{(\w+)(?::(-|\?)([^{}]*))?\}")
_SERVERS = ("prefect", "mlflow")
_JOBS = ("account", "deployments")
_WORKERS = ("worker", "upkeep-worker")


def missing() -> str:
    """Return the modules and programs that this machine lacks to run the services, as one text."""
    modules = [name for name in ("asyncpg", "psycopg2", "boto3", "flask_wtf") if not importlib.util.find_spec(name)]
    programs = [name for name in ("initdb", "postgres", "psql", "pg_dump", "pg_restore") if not _postgres_program(name)]
    programs += [] if _moto() else ["moto_server"]
    return ", ".join(modules + programs)


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced, inner ones first."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if kind == "?" and not variables.get(name):
            raise ValueError(f"{name}: {rest}")
        return variables.get(name) or (rest if kind == "-" else "")

    while _VARIABLE.search(text):
        text = _VARIABLE.sub(value, text)
    return text


def variables_of_example() -> dict[str, bool]:
    """Return the variables of docker/.env.example, and whether each one is a secret."""
    lines = re.findall(r"^(#?)([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE)
    return {name: not comment and not value for comment, name, value in lines}


@dataclass
class Topology:
    """Running services."""

    folder: Path
    secrets: dict[str, str]
    """Values of the variables of docker/.env, generated for this run."""
    ports: dict[str, int]
    services: dict[str, Any] = field(default_factory=dict)
    """Services of the compose file, with the addresses of this machine."""

    @property
    def stack(self) -> Stack:
        return Stack(f"http://localhost:{self.ports['prefect']}", f"http://localhost:{self.ports['mlflow']}")

    @property
    def s3(self) -> dict[str, str]:
        """Arguments with which boto3 connects to the S3 server."""
        environment = self.services["mlflow"]["environment"]
        return {
            "endpoint_url": environment["MLFLOW_S3_ENDPOINT_URL"],
            "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
            "region_name": environment["AWS_DEFAULT_REGION"],
        }

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service, with the programs of this Python first in PATH."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        silence = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}  # as in the images
        places = {"PATH": path, "PYTHONPATH": modules, "PREFECT_HOME": str(self.folder / "prefect")}
        return {**silence, **places, **self.services[service]["environment"]}

    def command(self, service: str) -> list[str]:
        return list(self.services[service]["command"])

    def run_in(self, service: str, command: str, data: str = "") -> None:
        """Run a command with the environment of a service and `data` as input, as `docker compose run` would.

        Raises:
            RuntimeError: If the command fails; contains the end of its output.
        """
        words = [_here(word, self) for word in shlex.split(command)]
        _run(self, f"{service}-{words[0]}", words, self.environment(service), data)

    def healthcheck(self, service: str) -> "subprocess.CompletedProcess[str]":
        """Run the healthcheck of a service and return the finished process."""
        _, *command = self.services[service]["healthcheck"]["test"]
        return subprocess.run(command, env={**os.environ, **self.environment(service)}, capture_output=True, text=True)

    def prefect(self, password: str = "") -> SyncPrefectClient:
        """Return a client of Prefect's API; an empty password means the administrator's."""
        return SyncPrefectClient(self.stack.api, auth_string=f"admin:{password or self.secrets['PREFECT_PASSWORD']}")

    def run_to_its_end(self, deployment: str, settings: Settings) -> FlowRun:
        """Run the deployment "flow/name" with these settings, wait until the run ends in any state, and return it."""
        with self.prefect() as client:
            run = flow_runs.start(client, deployment, settings.model_dump(mode="json"))
            return flow_runs.wait(client, run)

    def database(
        self, program: str, *arguments: str, role: str = "postgres", data: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a program of PostgreSQL with the password of a role and `data` as input; return the finished process."""
        passwords = {"postgres": "POSTGRES_PASSWORD"}
        password = self.secrets[passwords.get(role, f"{role.upper()}_DATABASE_PASSWORD")]
        environment = {**os.environ, "PGPASSWORD": password}
        command = [_postgres_program(program), "--host", HOST, "--port", str(self.ports["postgres"])]
        return subprocess.run(
            [*command, "--username", role, *arguments], input=data, env=environment, capture_output=True
        )


@contextmanager
def running_topology(folder: Path) -> Iterator[Topology]:
    """Start all services and workers of the compose file, yield them when they are healthy, and stop them on exit."""
    generated = {name: secrets.token_hex(24) for name, is_secret in variables_of_example().items() if is_secret}
    ports = {name: free_port() for name in ("postgres", "minio", "prefect", "mlflow", *_WORKERS)}
    topology = Topology(folder, generated, ports)
    topology.services = _services(topology)
    with ExitStack() as processes:
        processes.enter_context(_postgres(topology))
        processes.enter_context(_s3(topology))
        for service in _SERVERS:
            process, log = _start(topology, service, processes)
            wait_until_healthy(service, f"{getattr(topology.stack, service)}/{_health_route(service)}", process, log)
        for service in _JOBS:
            _run(topology, service, topology.command(service), topology.environment(service))
        started = {service: _start(topology, service, processes) for service in _WORKERS}
        for service, (process, log) in started.items():
            wait_until_healthy(service, f"http://{HOST}:{ports[service]}/health", process, log)
        yield topology


def _services(topology: Topology) -> dict[str, Any]:
    """Return the services with their variables replaced, and with addresses and folders of this machine."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    wanted = {name: services[name] for name in ("postgres", *_SERVERS, *_JOBS, *_WORKERS)}
    local: dict[str, Any] = _map(wanted, lambda text: _here(interpolate(text, topology.secrets), topology))
    local["prefect"]["environment"]["PREFECT_SERVER_DATABASE_HOST"] = HOST
    for name in _WORKERS:  # in its container, each worker uses port 8080
        port = str(topology.ports[name])
        local[name] = _map(local[name], lambda text, port=port: text.replace("127.0.0.1:8080", f"{HOST}:{port}"))
        local[name]["environment"] |= {"PREFECT_WORKER_WEBSERVER_PORT": port}
    local["deployments"]["environment"] |= {"PWD": str(ROOT)}
    local["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"] = str(_accounts_settings(topology))
    return local


def _here(text: str, topology: Topology) -> str:
    """Return a value of the compose file with the addresses and folders of this machine."""
    ports = topology.ports
    places = {
        r"\bpostgres:5432\b": f"{HOST}:{ports['postgres']}",
        r"^5432$": str(ports["postgres"]),
        r"\bminio:9000\b": f"{HOST}:{ports['minio']}",
        r"\bprefect:4200\b": f"localhost:{ports['prefect']}",
        r"^4200$": str(ports["prefect"]),
        r"\bmlflow:5000\b": f"localhost:{ports['mlflow']}",
        r"^--port=5000$": f"--port={ports['mlflow']}",
        r"\b0\.0\.0\.0\b": HOST,
        r"^/opt/(?=\w+\.py$)": f"{DOCKER}/",
        r"^/(?=leases$|results$)": f"{topology.folder}/",
    }
    for pattern, place in places.items():
        text = re.sub(pattern, place, text)
    return text


def _map(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _accounts_settings(topology: Topology) -> Path:
    copy = topology.folder / "mlflow-auth.ini"
    copy.write_text(_here((DOCKER / copy.name).read_text(), topology))
    return copy


def _health_route(service: str) -> str:
    return "api/health" if service == "prefect" else "health"


def _log(topology: Topology, service: str) -> Path:
    return topology.folder / "logs" / f"{service}.txt"


def _start(topology: Topology, service: str, processes: ExitStack) -> "tuple[subprocess.Popen[bytes], Path]":
    log = _log(topology, service)
    command, environment = topology.command(service), topology.environment(service)
    running = supervised(command, log_path=log, environment=environment, working_directory=ROOT)
    return processes.enter_context(running), log


def _run(topology: Topology, job: str, command: list[str], environment: dict[str, str], data: str = "") -> None:
    """Run a job to its end; raise `RuntimeError` if it fails."""
    complete = {**os.environ, **environment}
    done = subprocess.run(command, env=complete, cwd=ROOT, input=data, capture_output=True, text=True)
    _log(topology, job).write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@contextmanager
def _postgres(topology: Topology) -> Iterator[None]:
    """Run PostgreSQL as an unprivileged user, with the databases of docker/databases.sh."""
    place = Path(tempfile.mkdtemp(prefix="postgres-"))  # the unprivileged user may not be able to enter `folder`
    port = str(topology.ports["postgres"])
    try:
        secret = place / "password"
        secret.write_text(topology.secrets["POSTGRES_PASSWORD"])
        if os.geteuid() == 0:
            shutil.chown(place, "nobody")
            shutil.chown(secret, "nobody")
        initdb = [_postgres_program("initdb"), "--pgdata", str(place / "data"), "--username", "postgres"]
        choices = ["--auth", "scram-sha-256", "--pwfile", str(secret), "--encoding", "UTF8"]
        subprocess.run(_unprivileged([*initdb, *choices]), check=True, capture_output=True, cwd=place)
        listen = ["-c", f"listen_addresses={HOST}", "-c", f"unix_socket_directories={place}", "-p", port]
        server = _unprivileged([_postgres_program("postgres"), "-D", str(place / "data"), *listen])
        log = _log(topology, "postgres")
        with supervised(server, log_path=log, environment={}, working_directory=place) as process:
            _wait_for_port(topology.ports["postgres"], process)
            while topology.database("psql", "--dbname", "postgres", "--command", "SELECT 1").returncode:
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
            _make_databases(topology)
            yield
    finally:
        shutil.rmtree(place)


def _make_databases(topology: Topology) -> None:
    address = {"PGHOST": HOST, "PGPORT": str(topology.ports["postgres"])}
    environment = topology.environment("postgres") | address | {"PGPASSWORD": topology.secrets["POSTGRES_PASSWORD"]}
    _run(topology, "databases", ["sh", str(DOCKER / "databases.sh")], environment)


@contextmanager
def _s3(topology: Topology) -> Iterator[None]:
    """Run the S3-compatible server, with the bucket that the job of the compose file creates."""
    import boto3

    port = topology.ports["minio"]
    command = [_moto(), "--host", HOST, "--port", str(port)]
    with supervised(command, log_path=_log(topology, "s3"), environment={"PYTHONPATH": ""}) as process:
        _wait_for_port(port, process)
        boto3.client("s3", **topology.s3).create_bucket(Bucket="mlflow")
        yield


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex((HOST, port)) == 0:
                return
    raise RuntimeError(f"the server of port {port} ended with code {process.returncode}")


def _unprivileged(command: list[str]) -> list[str]:
    return ["setpriv", "--reuid=nobody", "--clear-groups", *command] if os.geteuid() == 0 else command


def _postgres_program(name: str) -> str:
    """Return the path of a program of PostgreSQL, also from Debian's folder of server programs; empty if missing."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(places[-1]) if places else shutil.which(name) or ""


def _moto() -> str:
    """Return the path of moto's server: MIXCPT_MOTO_SERVER, or the program in PATH; empty if missing."""
    return os.environ.get("MIXCPT_MOTO_SERVER") or shutil.which("moto_server") or ""
