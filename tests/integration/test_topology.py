"""The services of the compose file as real servers, with PostgreSQL, S3 and passwords, and a run of the deployment."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectHTTPStatusError

from benchmarks.topology import ROOT, Topology, missing, running_topology
from mixcpt.config import AdaptConfig, ReconcileConfig, load_config

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(bool(missing()), reason=f"not on this machine: {missing()} (docs/containers.md)"),
    pytest.mark.timeout(3600),
]

PAGE = (ROOT / "docs" / "containers.md").read_text()
STAGES = {"curate", "mix", "pretrain", "select", "sft", "dpo"}


@dataclass(frozen=True)
class Finished:
    """An adaptation that the worker ran."""

    config: AdaptConfig
    flow_run: FlowRun
    runs: dict[str, Run]
    """Runs in MLflow by name."""
    logs: str


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with running_topology(tmp_path_factory.mktemp("topology")) as running:
        yield running


@pytest.fixture(scope="module")
def tracking(topology: Topology) -> Iterator[MlflowClient]:
    """A client with the account of the workers, which MLflow reads from the environment for every request."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            environment.setenv(name, topology.environment("worker")[name])
        yield MlflowClient(topology.stack.mlflow)


@pytest.fixture(scope="module")
def finished(topology: Topology, tracking: MlflowClient) -> Finished:
    few = ["mixture.total_tokens=8000", "align.selection.num_candidates=40", "align.selection.num_instructions=8"]
    few += ["align.selection.num_preferences=8", *(f"evaluate.tasks.{number}.limit=6" for number in range(10))]
    place = ["pretrain.log_steps=1", "runtime.num_threads=1", f"runtime.store={topology.folder / 'store'}"]
    config = load_config(ROOT / "deployments" / "configs" / "demo-mixcpt.yaml", [*few, *place])
    run = topology.run_to_its_end("adapt/adapt-advanced", config)
    with topology.prefect() as client:
        logs = "\n".join(line.message for line in client.read_logs())
    experiment = tracking.get_experiment_by_name(config.runtime.experiment)
    assert experiment is not None, run.state
    runs = {tracked.info.run_name: tracked for tracked in tracking.search_runs([experiment.experiment_id])}
    return Finished(config, run, runs, logs)


@pytest.mark.parametrize("service", ["prefect", "mlflow", "worker", "upkeep-worker"])
def test_healthcheck_of_a_running_service_passes(topology: Topology, service: str) -> None:
    done = topology.healthcheck(service)
    assert (done.returncode, done.stdout.strip()) == (0, "")


@pytest.mark.parametrize(
    ("service", "variable", "value", "answer"),
    [
        ("worker", "PREFECT_API_AUTH_STRING", "admin:wrong", "401"),
        ("worker", "MLFLOW_TRACKING_PASSWORD", "wrong", "401"),
        ("mlflow", "MLFLOW_TRACKING_URI", "http://127.1:{mlflow}", "403"),  # a name that is not allowed
    ],
)
def test_healthcheck_fails_on_errors_that_health_routes_ignore(
    topology: Topology, service: str, variable: str, value: str, answer: str
) -> None:
    environment = topology.services[service]["environment"]
    with pytest.MonkeyPatch.context() as change:
        change.setitem(environment, variable, value.format(**topology.ports))
        done = topology.healthcheck(service)
    assert done.returncode == 1
    assert answer in done.stdout


def test_health_route_responds_to_a_client_without_other_access(topology: Topology) -> None:
    by_another_name = f"http://127.1:{topology.ports['mlflow']}"
    assert httpx.get(f"{by_another_name}/health").status_code == 200
    assert httpx.get(f"{by_another_name}/api/2.0/mlflow/experiments/search?max_results=1").status_code == 403


def test_wrong_password_is_refused_by_both_servers_and_by_the_databases(topology: Topology) -> None:
    with topology.prefect("wrong") as client, pytest.raises(PrefectHTTPStatusError, match="401"):
        client.read_flows()
    experiments = f"{topology.stack.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(experiments, auth=("worker", "wrong")).status_code == 401
    assert httpx.get(experiments).status_code == 401
    foreign = topology.database("psql", "--dbname", "mlflow", "--command", "SELECT 1", role="prefect")
    assert "permission denied for database" in foreign.stderr.decode()


def test_worker_account_is_no_admin(topology: Topology) -> None:
    account = ("worker", topology.secrets["MLFLOW_WORKER_PASSWORD"])
    another = {"username": "another", "password": "a-long-enough-password"}
    address = f"{topology.stack.mlflow}/api/2.0/mlflow/users/create"
    assert httpx.post(address, json=another, auth=account).status_code == 403


def test_command_of_the_page_creates_a_read_only_account(topology: Topology) -> None:
    command = re.search(r"^docker compose exec mlflow (python3 -c .*)$", PAGE, flags=re.MULTILINE)
    assert command
    topology.run_in("mlflow", command[1], "a-long-enough-password")
    account = ("ada", "a-long-enough-password")
    api = f"{topology.stack.mlflow}/api/2.0/mlflow"
    assert httpx.get(f"{api}/experiments/search?max_results=1", auth=account).status_code == 200
    change = {"experiment_id": "0", "key": "seen", "value": "by ada"}
    assert httpx.post(f"{api}/experiments/set-experiment-tag", json=change, auth=account).status_code == 403


def test_slots_of_a_limit_are_leased_on_the_volume(topology: Topology) -> None:
    with topology.prefect() as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpu", limit=1))
        client.increment_concurrency_slots_with_lease(["gpu"], slots=1, mode="concurrency", lease_duration=60)
    assert list((topology.folder / "leases").rglob("*.json"))


def test_deployment_runs_through_the_worker(finished: Finished) -> None:
    assert finished.flow_run.state_type == StateType.COMPLETED, finished.flow_run.state
    assert {run.info.status for run in finished.runs.values()} == {"FINISHED"}
    assert {finished.config.name, *STAGES} < set(finished.runs)
    pretraining = finished.runs["pretrain"].data
    assert pretraining.params["method.kind"] == "lssd"
    assert pretraining.metrics["train/loss"] > 0


def test_upkeep_runs_through_its_own_worker(topology: Topology, finished: Finished) -> None:
    runtime = finished.config.runtime
    settings = ReconcileConfig(store=runtime.store, experiment=runtime.experiment)
    run = topology.run_to_its_end("reconcile/reconcile", settings)
    assert run.state_type == StateType.COMPLETED, run.state
    assert run.work_pool_name == "mixcpt-upkeep"


def test_files_of_a_run_lie_in_the_bucket(topology: Topology, finished: Finished) -> None:
    import boto3

    bucket = boto3.client("s3", **topology.s3)
    run = finished.runs[finished.config.name].info
    listed = bucket.list_objects_v2(Bucket="mlflow", Prefix=f"{run.experiment_id}/{run.run_id}/")
    keys = {item["Key"].rpartition("/")[2]: item["Key"] for item in listed.get("Contents", [])}
    assert "report.html" in keys
    page = bucket.get_object(Bucket="mlflow", Key=keys["report.html"])["Body"].read()
    assert b"<html" in page


def test_no_secret_is_written_anywhere(topology: Topology, finished: Finished) -> None:
    import boto3

    places = {"parameters": json.dumps(finished.flow_run.parameters), "logs in Prefect": finished.logs}
    for name in ("prefect", "mlflow", "mlflow_accounts"):
        dump = topology.database("pg_dump", "--dbname", name)
        assert dump.returncode == 0, dump.stderr
        places[f"database {name}"] = dump.stdout.decode()
    places |= {str(path): path.read_text(errors="replace") for path in topology.folder.rglob("*") if path.is_file()}
    bucket = boto3.client("s3", **topology.s3)
    for item in bucket.list_objects_v2(Bucket="mlflow")["Contents"]:
        body = bucket.get_object(Bucket="mlflow", Key=item["Key"])["Body"].read()
        places[f"object {item['Key']}"] = body.decode(errors="replace")
    assert "mixture" in places["database prefect"]  # the dumps hold what was written
    assert finished.runs["pretrain"].info.run_id in places["database mlflow"]
    made_up = topology.secrets.items()
    assert {(place, name) for place, text in places.items() for name, value in made_up if value in text} == set()


def test_upgrade_commands_of_the_page_run(topology: Topology) -> None:
    upgrades = re.findall(r"^docker compose run --rm --no-deps (prefect|mlflow) (.*)$", PAGE, flags=re.MULTILINE)
    assert len(upgrades) == 3
    for service, command in upgrades:
        topology.run_in(service, command)
        assert topology.healthcheck(service).returncode == 0


def test_backup_of_the_page_is_restored_by_its_commands(
    topology: Topology, tracking: MlflowClient, finished: Finished
) -> None:
    dump = in_postgres(topology, r"pg_dump .* (?=>)")
    tracking.create_experiment("after-the-backup")
    in_postgres(topology, r"pg_restore .* (?=<)", dump)
    names = {experiment.name for experiment in tracking.search_experiments()}
    assert finished.config.runtime.experiment in names
    assert "after-the-backup" not in names


def in_postgres(topology: Topology, pattern: str, data: bytes = b"") -> bytes:
    """Run a command of the page for MLflow's database and return its output."""
    command = re.search(rf"exec -T postgres ({pattern})", PAGE)
    assert command
    program, *arguments = shlex.split(command[1].replace("$name", "mlflow"))
    done = topology.database(program, *arguments, data=data)
    assert done.returncode == 0, done.stderr
    return done.stdout
