"""A run that waits for a GPU, trains and is killed: its traces in Prefect and MLflow, and its reconciliation."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running

from deployments.automations import AUTOMATIONS, apply
from deployments.slots import set_gpu_slots
from flows.reconcile import reconcile
from mixcpt.config import AdaptConfig, ReconcileConfig
from mixcpt.process.devices import COUNT, LOCKS, VISIBLE, Busy, DeviceClaim, try_claim
from mixcpt.process.supervisor import supervised
from mixcpt.servers.stack import free_port, prefect_environment, wait_until_healthy
from mixcpt.stages.jobs import Batch, Finished, Job, append_event
from mixcpt.store.artifacts import ArtifactStore, StageKey
from mixcpt.store.spool import Spool, spool_of
from tasks import reconciliation, watching
from tasks.reconciliation import Finding, log_missed_stages
from tasks.slots import LIMIT
from tasks.tracking import PROCESS, Place, Tracking, open_tracking
from tasks.watching import StageWatch
from tests.processes import is_worker

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Killed:
    """Observations of a flow that waited for its GPU, got it, and was killed with `kill -9` during training."""

    config: AdaptConfig
    waiting_lines: list[str]
    waiting_artifacts: list[dict[str, Any]]
    visible_devices: str
    worker_lines: list[str]
    terminal: str
    busy_while_training: bool


@pytest.fixture
def client(site: Any) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: site.stack.api}), get_client(sync_client=True) as connected:
        yield connected


def query(api: str, kind: str, **filters: Any) -> list[dict[str, Any]]:
    response = httpx.post(f"{api}/{kind}/filter", json=filters, timeout=60).raise_for_status()
    return list(response.json())


def lines(api: str, text: str, since: str) -> list[str]:
    """Return the lines with this text in the logs of all runs, without lines of earlier tests."""
    logged = query(api, "logs", logs={"timestamp": {"after_": since}})
    return [line["message"] for line in logged if text in line["message"]]


@pytest.fixture(scope="module")
def killed(site: Any, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]) -> Killed:
    folder, api, begun = tmp_path_factory.mktemp("operations"), site.stack.api, datetime.now(UTC).isoformat()
    config: AdaptConfig = site.config_at(folder / "killed")
    store = Path(config.runtime.store)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(COUNT, "1")
        environment.setenv(LOCKS, str(folder / "locks"))
        mine = try_claim(("0",), 1, "run in-the-way")
        assert isinstance(mine, DeviceClaim)
        process = site.start(config)
        wait_until(lambda: lines(api, "held by run in-the-way", begun))
        wait_until(lambda: query(api, "artifacts", artifacts={"key": {"any_": ["waiting-for-gpus"]}}))
        waiting = query(api, "artifacts", artifacts={"key": {"any_": ["waiting-for-gpus"]}})
        mine.release()
        wait_until(lambda: list(store.glob("work/spools/model-*.jsonl")))
        busy = isinstance(try_claim(("0",), 1, "run other"), Busy)
        family = psutil.Process(process.pid).children(recursive=True)
        visible = {process.environ().get(VISIBLE, "") for process in family if is_worker(process)}
        wait_until(lambda: open_runs(config) >= {"tiny", "pretrain"})
        wait_until(lambda: lines(api, "mixcpt.train", begun))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(process.is_running() for process in family))
        freed = try_claim(("0",), 1, "run other")
        assert isinstance(freed, DeviceClaim)
        freed.release()
    terminal = (store / "request.log").read_text()
    waits, news = (lines(api, text, begun) for text in ("waiting for", "mixcpt.train"))
    return Killed(config, waits, waiting, ",".join(visible), news, terminal, busy)


def mlflow_runs(config: AdaptConfig) -> dict[str, str]:
    """Return the status of the MLflow runs by name."""
    client = MlflowClient(f"sqlite:///{config.runtime.store}/mlflow.db")
    experiment = client.get_experiment_by_name(config.runtime.experiment)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.info.run_name: run.info.status for run in runs}


def open_runs(config: AdaptConfig) -> set[str]:
    return {name for name, status in mlflow_runs(config).items() if status == "RUNNING"}


def flow_states(api: str) -> dict[str, str]:
    """Return the states of the flow runs by id."""
    return {run["id"]: run["state"]["name"] for run in query(api, "flow_runs") if run["name"].startswith("tiny")}


def reconciled(site: Any, killed: Killed, *, dry_run: bool) -> list[Finding]:
    runtime = killed.config.runtime
    config = ReconcileConfig(store=runtime.store, experiment=runtime.experiment, older_than_hours=0, dry_run=dry_run)
    with temporary_settings({PREFECT_API_URL: site.stack.api}):
        return reconcile(config)


def test_wait_for_a_gpu_is_shown_in_log_and_artifacts(killed: Killed) -> None:
    assert killed.waiting_lines[0].startswith("evaluate-base is waiting for 1 of 1 GPU, held by run in-the-way since ")
    (artifact,) = killed.waiting_artifacts
    assert (artifact["type"], artifact["data"]) == ("progress", 0.0)
    assert "held by run in-the-way" in artifact["description"]


def test_stage_has_exclusive_gpu_and_its_log_is_in_the_run_once(killed: Killed) -> None:
    assert killed.visible_devices == "0"
    assert killed.busy_while_training
    assert killed.worker_lines
    assert len(killed.worker_lines) == len(set(killed.worker_lines))
    assert not any(line in killed.terminal for line in killed.worker_lines)


def test_reconcile_dry_run_lists_everything_and_changes_nothing(site: Any, killed: Killed) -> None:
    def everything() -> tuple[dict[str, str], dict[str, str], set[Path]]:
        store = Path(killed.config.runtime.store)
        return flow_states(site.stack.api), mlflow_runs(killed.config), set(store.rglob("*"))

    before = everything()
    findings = reconciled(site, killed, dry_run=True)
    assert {finding.kind for finding in findings} == {"flow run", "MLflow run", "folder"}
    assert everything() == before
    assert "Running" in before[0].values()
    assert "RUNNING" in before[1].values()


def test_reconcile_closes_the_killed_flow_and_nothing_else(
    site: Any, killed: Killed, wait_until: Callable[..., None]
) -> None:
    def lives() -> list[dict[str, Any]]:
        return query(site.stack.api, "flow_runs", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})

    dead = {run["id"] for run in lives()}
    living = site.start(site.config_at(Path(killed.config.runtime.store).parent / "living"))
    wait_until(lambda: [run for run in lives() if run["id"] not in dead and run["labels"].get("mixcpt.process")])
    tables = {"key": {"any_": ["reconciliation-table"]}}
    num_tables = len(query(site.stack.api, "artifacts", artifacts=tables))
    findings = reconciled(site, killed, dry_run=False)
    assert len(query(site.stack.api, "artifacts", artifacts=tables)) == num_tables + 1
    states = flow_states(site.stack.api)
    assert {states[run] for run in dead} == {"Crashed"}
    assert "Running" in {state for run, state in states.items() if run not in dead}
    runs = mlflow_runs(killed.config)
    assert {name for name, status in runs.items() if status == "KILLED"} == {"tiny", "pretrain"}
    assert "RUNNING" not in runs.values()
    store = Path(killed.config.runtime.store)
    assert not list(store.glob("work/batches/*"))
    assert list(store.glob("work/model/*/*")), "checkpoints are kept"
    living.terminate()
    living.wait()
    assert len(findings) > 3
    assert reconciled(site, killed, dry_run=False) == []


def test_reconcile_ends_subflows_of_a_run_that_ended_on_another_machine(
    site: Any, killed: Killed, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    def some() -> None: ...

    whole = client.create_flow_run(some, name="whole", state=Running())
    step = client.create_task_run(task(lambda: None, name="step"), whole.id, dynamic_key="0")
    part = client.create_flow_run(some, name="part", parent_task_run_id=step.id, state=Running())
    group = client.create_flow_run(some, name="group", parent_task_run_id=step.id, state=Running())
    for run, number in ((whole, 99), (part, 99), (group, 100)):
        client.update_flow_run_labels(run.id, {PROCESS: f"another-machine/boot/1 {number} 0.00"})
    assert reconciled(site, killed, dry_run=False) == []  # processes of other machines are unknown
    client.set_flow_run_state(whole.id, Crashed(message="no heartbeat"), force=True)
    assert reconciled(site, killed, dry_run=False) == []  # its hooks may still run
    monkeypatch.setattr(reconciliation, "_SETTLED_SECONDS", 0)
    (finding,) = reconciled(site, killed, dry_run=False)
    assert (finding.name, finding.reason) == ("part", "the run that it is part of has ended")
    assert client.read_flow_run(part.id).state_name == "Crashed"
    assert client.read_flow_run(group.id).state_name == "Running"  # a process of its own may be alive
    client.set_flow_run_state(group.id, Crashed(), force=True)


def test_stage_missing_in_mlflow_is_logged_by_reconcile(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def build(folder: Path) -> dict[str, int]:
        (folder / "corpus.txt").write_text("text")
        return {"documents": 3}

    ref = store.produce(StageKey("corpus", 1, {}), build)
    batch = Batch.in_store((Job(name="curate", stage="curate", config={"min_characters": 5}, seed=7),), store.root)
    batch.write()
    append_event(batch.events, Finished("curate", ref))
    spool = spool_of(store.root, ref.kind, ref.fingerprint)
    spool.log(1, {"curate/documents": 3.0})
    spool.flow_spool.log(0, {"system/process_memory_megabytes": 5.0})
    config = ReconcileConfig(store=str(tmp_path))
    assert [finding.name for finding in log_missed_stages.fn(config)] == ["curate"]
    assert log_missed_stages.fn(config) == []
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mixcpt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("curate", "FINISHED")
    assert run.data.metrics["curate/documents"] == 3.0
    assert run.data.metrics["system/process_memory_megabytes"] == 5.0
    assert run.data.params == {"min_characters": "5", "seed": "7"}


class Silent:
    """A report that shows nothing and has a constant rate."""

    pace = SimpleNamespace(seconds_left=lambda total: 90.0)

    def start(self, stage: str) -> None: ...

    def show(self, measured: list[Any]) -> None: ...


def test_progress_and_resources_are_logged_once_across_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(watching, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(watching, "FORWARD_SECONDS", 0.0)
    tracking: Tracking = open_tracking(Place(f"sqlite:///{tmp_path / 'mlflow.db'}", "trial", tmp_path.as_uri()))
    adaptation: Any = SimpleNamespace(tracking=tracking, run_id="", tags={})
    spool, job, report = (
        Spool(tmp_path / "spool.jsonl"),
        Job(name="pretrain", stage="pretrain", config={}, seed=0),
        Silent(),
    )
    usage: Any = SimpleNamespace(sample=lambda: {"system/process_memory_megabytes": 5.0})
    for steps in ((10, 20), (20, 30)):  # the second attempt measures step 20 again
        stage = StageWatch(adaptation, job, "key", spool=spool, report=report)  # type: ignore[arg-type]
        for step in steps:
            spool.log(step, {"train/loss": 1.0}, total_steps=40)
            stage.sample(usage)
            stage.forward()

    def history(key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in tracking.client.get_metric_history(stage.run_id, key)]

    assert history("train/loss") == [(10, 1.0), (20, 1.0), (30, 1.0)]
    assert history("progress/percent") == [(10, 25.0), (20, 50.0), (30, 75.0)]
    assert history("progress/eta_seconds") == [(10, 90.0), (20, 90.0), (30, 90.0)]
    assert history("system/process_memory_megabytes") == [(number, 5.0) for number in range(4)]


def test_automations_applied_twice_exist_once_and_stay_disabled(client: SyncPrefectClient) -> None:
    def ours() -> dict[str, tuple[str, bool]]:
        by_name = {automation.name: automation for automation in client.read_automations()}
        assert len(by_name) == len(client.read_automations())
        return {name: (str(automation.id), automation.enabled) for name, automation in by_name.items()}

    names = {build().name for build in AUTOMATIONS}
    first = {name: state for name, state in ours().items() if name in names}
    assert len(first) == len(AUTOMATIONS)  # created by `mixcpt up`
    apply(client)
    assert first.items() <= ours().items()
    (identity, _), *_ = first.values()
    client.pause_automation(identity)  # type: ignore[arg-type]
    apply(client)
    assert ours()[next(iter(first))] == (identity, False)
    client.resume_automation(identity)  # type: ignore[arg-type]


@contextmanager
def prefect_server(store: Path, port: int) -> Iterator[str]:
    """Start a server like `mixcpt up` does; the temporary server of a single run does not manage leases."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log, api = store / "server.txt", f"http://127.0.0.1:{port}/api"
    with supervised(command, log_path=log, environment=prefect_environment(store)) as process:
        wait_until_healthy("the Prefect server", f"{api}/health", process, log)
        yield api


HOLDER = """
import sys, time
from tasks.slots import leased_slots
def wait(reason, seconds):
    print(reason, flush=True)
    time.sleep(seconds)
with leased_slots(int(sys.argv[1]), "", wait):
    print("has it", flush=True)
    time.sleep(600)
"""


@pytest.mark.long
def test_leased_slot_survives_a_server_restart_and_is_released_when_its_holder_dies(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def hold(api: str, name: str) -> Path:
        with (tmp_path / name).open("ab") as printed:
            environment = {**os.environ, "PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-c", HOLDER, "1"]
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=printed, stderr=printed))
        return tmp_path / name

    def taken(api: str) -> int:
        answer = httpx.get(f"{api}/v2/concurrency_limits/{LIMIT}", timeout=60)
        return int(answer.raise_for_status().json()["active_slots"])

    port = free_port()
    try:
        with prefect_server(tmp_path, port) as api:
            with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
                set_gpu_slots(client, 1)
            first = hold(api, "first")
            wait_until(lambda: "has it" in first.read_text())
        with prefect_server(tmp_path, port) as api:
            second = hold(api, "second")
            wait_until(lambda: "waiting for 1 of the 1 slots" in second.read_text())
            time.sleep(75)  # longer than a lease: the first has renewed it at the new server
            assert taken(api) == 1
            assert "has it" not in second.read_text()
            started[0].kill()
            died = time.monotonic()
            wait_until(lambda: "has it" in second.read_text(), seconds=120)
            assert time.monotonic() - died < 100
            started[1].send_signal(signal.SIGINT)  # an orderly end releases the slot at once
            started[1].wait()
            assert taken(api) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
