"""A whole adaptation of a tiny model: its results in the store and MLflow; repetition, kill and crash."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from mixcpt.config import AdaptConfig
from mixcpt.records.run import RunResult, find_run
from mixcpt.store.artifacts import ArtifactStore
from tasks.tracking import RUN_KEY, STAGE_KEY
from tests.processes import is_worker

pytestmark = pytest.mark.e2e

STAGES = {
    "curate",
    "plan",
    "mix",
    "pretrain",
    "select",
    "sft",
    "dpo",
    "evaluate-base",
    "evaluate-pretrained",
    "evaluate-final",
}


def result_of(config: AdaptConfig) -> RunResult:
    return find_run(ArtifactStore(config.runtime.store), config.name)


def client_of(config: AdaptConfig) -> MlflowClient:
    return MlflowClient(f"sqlite:///{config.runtime.store}/mlflow.db")


def runs_of(config: AdaptConfig) -> dict[str, Run]:
    """Return the MLflow runs by name, after checking that no name occurs twice."""
    client = client_of(config)
    experiment = client.get_experiment_by_name(config.runtime.experiment)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    assert len({run.info.run_name for run in runs}) == len(runs), "a run is there twice"
    return {run.info.run_name: client.get_run(run.info.run_id) for run in runs}


def table_of(config: AdaptConfig, run: Run, file: str) -> dict[str, float]:
    """Return the named numbers of a table of a run."""
    with TemporaryDirectory() as folder:
        path = client_of(config).download_artifacts(run.info.run_id, file, folder)
        return dict(json.loads(Path(path).read_text())["data"])


def records(config: AdaptConfig) -> dict[str, str]:
    """Return the creation times of the artifacts of the store."""
    paths = Path(config.runtime.store).glob("*/*/record.json")
    return {str(path): json.loads(path.read_text())["created_at"] for path in paths}


def test_adaptation_publishes_every_stage_and_learns(adapted: AdaptConfig) -> None:
    result = result_of(adapted)
    assert set(result.refs) == {"corpus", "mixture", "pretrained", "selection", "sft", "dpo"}
    assert result.final == "dpo"
    scores = {
        role: json.loads(ref.file("summary.json").read_text())["tasks"][0]["value"]
        for role, ref in result.evaluations.items()
    }
    assert scores["pretrained"] < scores["base"]
    assert (Path(adapted.runtime.store) / "report.html").is_file()


def test_adaptation_has_one_finished_mlflow_run_per_stage_below_one_parent(adapted: AdaptConfig) -> None:
    runs = runs_of(adapted)
    parent, base = runs.pop("tiny"), runs.pop(f"base: {result_of(adapted).base.name}")
    assert set(runs) == {*STAGES, "tiny before alignment"}
    assert "mlflow.parentRunId" not in base.data.tags
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert RUN_KEY in parent.data.tags
    assert runs["sft"].data.tags[STAGE_KEY] == result_of(adapted).refs["sft"].fingerprint
    assert runs["pretrain"].data.params["method.kind"] == "lssd"
    assert parent.data.metrics["domain_change"] < 0
    assert set(parent.data.metrics) == set(base.data.metrics) == set(runs["tiny before alignment"].data.metrics)
    assert len(parent.data.metrics) <= 25
    assert parent.data.tags["method"] == "lssd"
    figures = table_of(adapted, parent, "metrics.json")
    planned, measured = (figures[f"{name}/pretrained/tokens"] for name in ("plan", "measured"))
    assert measured == pytest.approx(planned, rel=0.01)  # the plan knows no padding before rows are packed
    files = {file.path for file in client_of(adapted).list_artifacts(parent.info.run_id)}
    assert files == {"report.html", "results.md", "run.json", "model-card.md", "metrics.json"}
    datasets = [item.dataset.name for item in parent.inputs.dataset_inputs]
    assert sorted(datasets) == ["corpus", "evaluation-tasks", "mixture", "selection"]


def test_adaptation_links_datasets_models_and_measurements(adapted: AdaptConfig) -> None:
    runs, result, client = runs_of(adapted), result_of(adapted), client_of(adapted)
    (mixture,) = runs["pretrain"].inputs.dataset_inputs
    assert result.refs["mixture"].digest.startswith(mixture.dataset.digest)
    assert len(mixture.dataset.digest) == 36
    models = {name: runs[name].outputs.model_outputs[0].model_id for name in ("pretrain", "sft", "dpo")}
    assert len(set(models.values())) == 3
    assert [model.model_id for model in runs["sft"].inputs.model_inputs] == [models["pretrain"]]
    final = client.get_logged_model(models["dpo"])
    assert final.tags["mixcpt.digest"] == result.refs["dpo"].digest
    assert {metric.key for metric in final.metrics or []} >= {"eval/domain_text/bits_per_byte"}
    version = client.get_model_version_by_alias(adapted.runtime.registered_model, "challenger")
    assert version.tags["mixcpt.digest"] == result.refs["dpo"].digest
    assert version.description.startswith("# tiny")
    assert "## Training data" in version.description


def test_adaptation_second_call_computes_and_tracks_nothing(site: Any, adapted: AdaptConfig) -> None:
    created, runs = records(adapted), runs_of(adapted)
    seconds = site.adapt(adapted)
    assert records(adapted) == created
    assert {name: run.info.end_time for name, run in runs_of(adapted).items()} == {
        name: run.info.end_time for name, run in runs.items()
    }
    assert seconds < 60


COUNTED = """
import json, sys
from collections import Counter
from pathlib import Path
from mixcpt.config import AdaptConfig
from mixcpt.records.run import find_stored_run
from mixcpt.store.artifacts import ArtifactStore

lookups, find = Counter(), ArtifactStore.find
def counted(self, kind, identity):
    lookups[f"{kind} {identity}"] += 1
    return find(self, kind, identity)
ArtifactStore.find = counted
run = find_stored_run(AdaptConfig.model_validate_json(Path(sys.argv[1]).read_text()))
print(json.dumps([run.name, dict(lookups), sorted({"torch", "transformers"} & {*sys.modules})]))
"""


def test_finished_run_reads_the_store_once_per_stage_and_imports_no_torch(adapted: AdaptConfig, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(adapted.model_dump_json())
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", COUNTED, str(tmp_path / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    name, lookups, imported = json.loads(done.stdout)
    assert (name, imported) == (adapted.name, []), done.stderr
    kinds = sorted(key.split()[0] for key in lookups)
    assert kinds == sorted(["corpus", "mixture", "selection", "run", *["model"] * 3, *["evaluation"] * 3])
    assert set(lookups.values()) == {1}


@pytest.mark.long
def test_adaptation_changed_late_computes_only_later_stages(site: Any, adapted: AdaptConfig, tmp_path: Path) -> None:
    config: AdaptConfig = site.config_at(tmp_path / "changed")
    shutil.copytree(adapted.runtime.store, config.runtime.store, dirs_exist_ok=True)
    before = records(config)
    sft = config.align.sft.model_copy(update={"epochs": 2})
    site.adapt(config.model_copy(update={"align": config.align.model_copy(update={"sft": sft})}))
    new = [Path(path).relative_to(config.runtime.store).parts[0] for path in set(records(config)) - set(before)]
    assert sorted(new) == ["evaluation", "model", "model", "plan", "run"]


def test_adaptation_killed_and_crashed_ends_with_the_same_weights(
    site: Any, adapted: AdaptConfig, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    config: AdaptConfig = site.config_at(tmp_path / "disturbed")
    flow = site.start(config)
    wait_until(lambda: training_step(config) >= 60 and "pretrain" in runs_of(config))
    family = psutil.Process(flow.pid).children(recursive=True)
    assert any(is_worker(process) for process in family)
    os.kill(flow.pid, signal.SIGKILL)
    flow.wait()
    wait_until(lambda: not any(is_alive(process) for process in family))
    assert runs_of(config)["pretrain"].info.status == "RUNNING"  # no process was left to close it
    killed_at = training_step(config)
    assert killed_at < 460, "the training had ended before the kill"

    flow = site.start(config)
    wait_until(lambda: training_step(config) > killed_at)
    worker_of(flow).kill()  # the flow itself takes the stage up again
    assert flow.wait() == 0, (tmp_path / "disturbed" / "request.log").read_text()

    assert weights(config) == weights(adapted)
    runs = runs_of(config)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    undisturbed = loss_history(adapted, runs_of(adapted)["pretrain"])
    assert loss_history(config, runs["pretrain"]) == undisturbed
    assert len(undisturbed) > 40


def weights(config: AdaptConfig) -> dict[str, str]:
    """Return the digests of the weights of the trained models."""
    refs = result_of(config).refs
    return {role: refs[role].record["files"]["model/model.safetensors"] for role in ("pretrained", "sft", "dpo")}


def loss_history(config: AdaptConfig, run: Run) -> list[tuple[int, float]]:
    return [
        (metric.step, metric.value) for metric in client_of(config).get_metric_history(run.info.run_id, "train/loss")
    ]


def training_step(config: AdaptConfig) -> int:
    """Return the last step in the spool of the pre-training; 0 before the first."""
    steps = [
        json.loads(line)["step"]
        for spool in Path(config.runtime.store).glob("work/spools/model-*.jsonl")
        for line in spool.read_text().splitlines()
        if line.endswith("}") and '"train/loss"' in line
    ]
    return max(steps, default=0)


def worker_of(flow: "subprocess.Popen[bytes]") -> psutil.Process:
    return next(filter(is_worker, psutil.Process(flow.pid).children(recursive=True)))


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_adaptation_bad_source_fails_with_its_message_and_leaves_no_open_run(site: Any, tmp_path: Path) -> None:
    config: AdaptConfig = site.config_at(tmp_path / "bad")
    data = json.loads(config.model_dump_json())
    data["curation"]["sources"][0]["paths"] = [str(tmp_path / "nowhere.jsonl")]
    request = tmp_path / "bad.json"
    request.write_text(json.dumps(data))
    environment = {**os.environ, "PREFECT_API_URL": site.stack.api}
    ended = subprocess.run(
        [sys.executable, "-m", "flows", "adapt", str(request)], cwd=Path(__file__).parents[2], env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "nowhere.jsonl" in ended.stderr.splitlines()[-1] + ended.stderr.splitlines()[-2]
    assert records(config) == {}
