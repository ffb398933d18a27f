"""Two work pools: a flow on the one, its stages that take a GPU on the other, whose worker dies in the middle."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mixcpt.config import AdaptConfig
from mixcpt.deployment import Pools, deploy
from mixcpt.stack import Stack, free_port, prefect_environment, running_stack
from tasks.tracking import PROCESS

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("pools") / "store")


@pytest.fixture(scope="module")
def stack(store: Path) -> Iterator[Stack]:
    with running_stack(store, ROOT, free_port(), free_port(), presets=False) as (stack, _):
        environment = prefect_environment(store)
        deploy(stack.api, store, root=ROOT, environment=environment, presets=False, pools=Pools(gpu="gpu"))
        told = {**os.environ, **environment, "PREFECT_API_URL": stack.api, "MLFLOW_TRACKING_URI": stack.mlflow}
        worker = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--name", "gpu-worker")
        with subprocess.Popen(worker, cwd=ROOT, env=told | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}) as gpu:
            yield stack
            gpu.terminate()


def flow_runs(stack: Stack) -> list[dict[str, Any]]:
    return list(httpx.post(f"{stack.api}/flow_runs/filter", json={}, timeout=60).raise_for_status().json())


def start(stack: Stack, config: AdaptConfig) -> str:
    deployment = httpx.get(f"{stack.api}/deployments/name/adapt/adapt", timeout=60).raise_for_status().json()
    given = deployment["parameters"]["config"]
    runtime = given["runtime"] | {"num_threads": 1}
    asked = {"parameters": {"config": config.model_dump(mode="json") | {"runtime": runtime}}}
    address = f"{stack.api}/deployments/{deployment['id']}/create_flow_run"
    answer = httpx.post(address, json=asked | {"state": {"type": "SCHEDULED"}}, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def stations(stack: Stack) -> list[dict[str, Any]]:
    return [run for run in flow_runs(stack) if run["name"].endswith(": station")]


def test_stages_that_take_a_gpu_run_on_its_pool_and_a_killed_one_is_taken_up_again(
    stack: Stack, store: Path, site: Any, wait_until: Callable[..., None]
) -> None:
    flow_run = start(stack, site.config)
    wait_until(lambda: any(store.glob("work/spools/model-*.jsonl")))
    (training,) = [run for run in stations(stack) if run["state_type"] == "RUNNING"]
    os.kill(int(training["labels"][PROCESS].split()[1]), signal.SIGKILL)

    def adapted() -> dict[str, Any]:
        return next(run for run in flow_runs(stack) if run["id"] == flow_run)

    wait_until(lambda: adapted()["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
    assert adapted()["state_type"] == "COMPLETED", adapted()["state"]
    assert adapted()["work_pool_name"] == "mixcpt"
    done = stations(stack)
    assert {run["work_pool_name"] for run in done} == {"gpu"}
    assert [run["id"] for run in done if run["state_type"] == "CRASHED"] == [training["id"]]
    assert sum(run["state_type"] == "COMPLETED" for run in done) == len(done) - 1 >= 3
