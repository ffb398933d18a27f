"""The services of docker/compose.yaml as processes of this machine: same commands, same environment, free ports.

PostgreSQL and an S3-compatible server (moto) are real; an address in a container becomes one of 127.0.0.1, and a folder
of a volume one below `folder`. What this cannot show is what an engine adds: images, networks, users, limits.
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
    """Returns what this machine lacks to run the services; empty where nothing is missing."""
    modules = [name for name in ("asyncpg", "psycopg2", "boto3", "flask_wtf") if not importlib.util.find_spec(name)]
    programs = [name for name in ("initdb", "postgres", "psql", "pg_dump", "pg_restore") if not _postgres_program(name)]
    programs += [] if _moto() else ["moto_server"]
    return ", ".join(modules + programs)


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Returns the text with its `${NAME}`, `${NAME:-default}` and `${NAME:?message}` filled in, inner ones first."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if kind == "?" and not variables.get(name):
            raise ValueError(f"{name}: {rest}")
        return variables.get(name) or (rest if kind == "-" else "")

    while _VARIABLE.search(text):
        text = _VARIABLE.sub(value, text)
    return text


def variables_of_example() -> dict[str, bool]:
    """Returns the variables of docker/.env.example, and whether each is a secret."""
    lines = re.findall(r"^(#?)([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE)
    return {name: not comment and not value for comment, name, value in lines}


@dataclass
class Topology:
    """Running services."""

    folder: Path
    secrets: dict[str, str]
    """The variables of docker/.env, made up for this time."""
    ports: dict[str, int]
    services: dict[str, Any] = field(default_factory=dict)
    """The services of the compose file, on this machine's addresses."""

    @property
    def stack(self) -> Stack:
        return Stack(f"http://localhost:{self.ports['prefect']}", f"http://localhost:{self.ports['mlflow']}")

    @property
    def s3(self) -> dict[str, str]:
        """How boto3 reaches the files."""
        found = self.services["mlflow"]["environment"]
        return {
            "endpoint_url": found["MLFLOW_S3_ENDPOINT_URL"],
            "aws_access_key_id": found["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": found["AWS_SECRET_ACCESS_KEY"],
            "region_name": found["AWS_DEFAULT_REGION"],
        }

    def environment(self, service: str) -> dict[str, str]:
        """Returns the environment of a service, with the programs of this Python first."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        silence = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}  # as in the images
        places = {"PATH": path, "PYTHONPATH": modules, "PREFECT_HOME": str(self.folder / "prefect")}
        return {**silence, **places, **self.services[service]["environment"]}

    def command(self, service: str) -> list[str]:
        return list(self.services[service]["command"])

    def run_in(self, service: str, command: str, data: str = "") -> None:
        """Runs a command that reads `data`, with the environment of a service, as `docker compose run` would.

        Raises:
            RuntimeError: With the end of its output, if it fails.
        """
        words = [_here(word, self) for word in shlex.split(command)]
        _run(self, f"{service}-{words[0]}", words, self.environment(service), data)

    def healthcheck(self, service: str) -> "subprocess.CompletedProcess[str]":
        """Returns how the healthcheck of a service ended."""
        _, *command = self.services[service]["healthcheck"]["test"]
        return subprocess.run(command, env={**os.environ, **self.environment(service)}, capture_output=True, text=True)

    def prefect(self, password: str = "") -> SyncPrefectClient:
        """Returns a client of Prefect's API with the administrator's password, or with another."""
        return SyncPrefectClient(self.stack.api, auth_string=f"admin:{password or self.secrets['PREFECT_PASSWORD']}")

    def run_to_its_end(self, name: str, settings: Settings) -> FlowRun:
        """Returns the run of a deployment with these settings, as Prefect knows it, once it has ended in any state."""
        with self.prefect() as client:
            run = flow_runs.start(client, f"{name}/{name}", settings.model_dump(mode="json"))
            return flow_runs.wait(client, run)

    def database(
        self, program: str, *arguments: str, role: str = "postgres", data: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Returns how a program of PostgreSQL ended that read `data`, called with the password of a role."""
        passwords = {"postgres": "POSTGRES_PASSWORD"}
        password = self.secrets[passwords.get(role, f"{role.upper()}_DATABASE_PASSWORD")]
        environment = {**os.environ, "PGPASSWORD": password}
        command = [_postgres_program(program), "--host", HOST, "--port", str(self.ports["postgres"])]
        return subprocess.run(
            [*command, "--username", role, *arguments], input=data, env=environment, capture_output=True
        )


@contextmanager
def running_topology(folder: Path) -> Iterator[Topology]:
    """Yields the services of the compose file once they are healthy, workers among them; stops them on leaving."""
    made_up = {name: secrets.token_hex(24) for name, is_secret in variables_of_example().items() if is_secret}
    ports = {name: free_port() for name in ("postgres", "minio", "prefect", "mlflow", *_WORKERS)}
    topology = Topology(folder, made_up, ports)
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
    """Returns the services with their variables filled in and their addresses and folders put on this machine."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    wanted = {name: services[name] for name in ("postgres", *_SERVERS, *_JOBS, *_WORKERS)}
    found: dict[str, Any] = _map(wanted, lambda text: _here(interpolate(text, topology.secrets), topology))
    found["prefect"]["environment"]["PREFECT_SERVER_DATABASE_HOST"] = HOST
    for name in _WORKERS:  # each of them would have a port 8080 of its own
        port = str(topology.ports[name])
        found[name] = _map(found[name], lambda text, port=port: text.replace("127.0.0.1:8080", f"{HOST}:{port}"))
        found[name]["environment"] |= {"PREFECT_WORKER_WEBSERVER_PORT": port}
    found["deployments"]["environment"] |= {"PWD": str(ROOT)}
    found["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"] = str(_accounts_settings(topology))
    return found


def _here(text: str, topology: Topology) -> str:
    """Returns a value of the compose file as it has to be on this machine."""
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
    """Runs a job to its end."""
    complete = {**os.environ, **environment}
    done = subprocess.run(command, env=complete, cwd=ROOT, input=data, capture_output=True, text=True)
    _log(topology, job).write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@contextmanager
def _postgres(topology: Topology) -> Iterator[None]:
    """Runs PostgreSQL as an unprivileged user, with the databases that docker/databases.sh makes."""
    place = Path(tempfile.mkdtemp(prefix="postgres-"))  # not below `folder`: that user may not be able to enter it
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
    """Runs the S3-compatible server, with the bucket that the compose file's job makes."""
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
    """Returns the path of a program of PostgreSQL; Debian keeps the server's beside the others. Empty if not there."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(places[-1]) if places else shutil.which(name) or ""


def _moto() -> str:
    """Returns the path of moto's server: MIXCPT_MOTO_SERVER, or the one that is on the path; empty if there is none."""
    return os.environ.get("MIXCPT_MOTO_SERVER") or shutil.which("moto_server") or ""
