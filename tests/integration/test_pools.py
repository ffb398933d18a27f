"""Two work pools: a flow on one, its GPU stages on the other, whose worker dies while it computes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType

from benchmarks.flow_runs import start, wait
from mixcpt.config import AdaptConfig
from mixcpt.servers.deployment import Pools, deploy
from mixcpt.servers.stack import Stack, free_port, prefect_environment, running_stack
from tasks.tracking import PROCESS

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("pools") / "store")


@pytest.fixture(scope="module")
def stack(store: Path) -> Iterator[Stack]:
    with running_stack(store, free_port(), free_port(), presets=False) as (stack, _):
        environment = prefect_environment(store)
        deploy(stack.api, store, environment=environment, presets=False, pools=Pools(gpu="gpu"))
        variables = {**os.environ, **environment, "PREFECT_API_URL": stack.api, "MLFLOW_TRACKING_URI": stack.mlflow}
        variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        worker = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--name", "gpu-worker")
        with subprocess.Popen(worker, cwd=ROOT, env=variables) as gpu:
            yield stack
            gpu.terminate()


def settings_on_stack(client: SyncPrefectClient, config: AdaptConfig) -> dict[str, Any]:
    """Return settings for a run on the stack with its own folders and one thread."""
    parameters = client.read_deployment_by_name("adapt/adapt-advanced").parameters["config"]
    return config.model_dump(mode="json") | {"runtime": parameters["runtime"] | {"num_threads": 1}}


def stage_groups(client: SyncPrefectClient) -> list[FlowRun]:
    return [run for run in client.read_flow_runs() if run.name.endswith(": stage group")]


def test_gpu_stages_run_on_their_pool_and_resume_after_a_kill(
    stack: Stack, store: Path, site: Any, wait_until: Callable[..., None]
) -> None:
    with SyncPrefectClient(stack.api) as client:
        flow_run = start(client, "adapt/adapt-advanced", settings_on_stack(client, site.config))
        wait_until(lambda: any(store.glob("work/spools/model-*.jsonl")))
        (training,) = [run for run in stage_groups(client) if run.state_type == StateType.RUNNING]
        os.kill(int(str(training.labels[PROCESS]).split()[1]), signal.SIGKILL)

        adapted = wait(client, flow_run)
        done = stage_groups(client)
    assert adapted.state_type == StateType.COMPLETED, adapted.state
    assert adapted.work_pool_name == "mixcpt"
    assert {run.work_pool_name for run in done} == {"gpu"}
    assert [run.id for run in done if run.state_type == StateType.CRASHED] == [training.id]
    assert sum(run.state_type == StateType.COMPLETED for run in done) == len(done) - 1 >= 3
