"""The deployments as the UI uses them: short and full form, runs through a real worker, and refused values."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError

from benchmarks.flow_runs import start, wait
from mixcpt.config import AdaptConfig, BaseModelConfig
from mixcpt.store.fingerprint import fingerprint
from tasks.checking import CHECKED

pytestmark = pytest.mark.e2e
MODEL = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "TinyStories-656K"


@pytest.fixture(scope="module")
def client(site: Any) -> Iterator[SyncPrefectClient]:
    with SyncPrefectClient(site.stack.api) as client:
        yield client


def test_deployment_form_explains_every_field_and_has_defaults(client: SyncPrefectClient) -> None:
    schema = client.read_deployment_by_name("adapt/adapt-advanced").parameter_openapi_schema or {}
    fields = {
        f"{name}.{field}": description
        for name, definition in schema["definitions"].items()
        for field, description in definition.get("properties", {}).items()
    }
    assert {name for name, field in fields.items() if not field.get("description")} == set()
    assert schema["properties"]["config"]["default"] == json.loads(AdaptConfig().model_dump_json())


@pytest.mark.parametrize(
    ("section", "field", "value"), [("mixture", "total_tokens", -1), ("align", "unknown", 1), ("base", "model", [])]
)
def test_deployment_bad_value_is_refused_before_start(
    site: Any, client: SyncPrefectClient, section: str, field: str, value: Any
) -> None:
    config = json.loads(site.config.model_dump_json())
    config[section][field] = value
    with pytest.raises(PrefectHTTPStatusError, match=field) as refused:
        start(client, "adapt/adapt-advanced", config)
    assert refused.value.response.status_code == httpx.codes.CONFLICT


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", ""), ("documents", []), ("total_tokens", -1), ("preset", "none-of-them"), ("unknown", 1)],
)
def test_deployment_short_form_refuses_bad_values_before_start(
    client: SyncPrefectClient, field: str, value: Any
) -> None:
    given = {"model": "owner/model", "documents": ["/documents"], field: value}
    with pytest.raises(PrefectHTTPStatusError, match=field) as refused:
        start(client, "adapt/adapt", given)
    assert refused.value.response.status_code == httpx.codes.CONFLICT


@pytest.mark.skipif(not MODEL.is_dir(), reason="needs a model whose tokenizer reads the general text")
def test_deployment_short_form_runs_through_the_worker(site: Any, client: SyncPrefectClient) -> None:
    documents, instructions, _ = site.config.curation.sources
    filled = client.read_deployment_by_name("adapt/adapt").parameters["config"]
    given = {
        "name": "short",
        "model": str(MODEL),
        "documents": list(documents.paths),
        "instructions": list(instructions.paths),
        "total_tokens": 4000,
    }
    finished = wait(client, start(client, "adapt/adapt", {**filled, **given}))
    assert finished.state_type == StateType.COMPLETED, finished.state
    artifacts = artifacts_of(client, finished.id)
    assert "total_tokens: 4000" in artifacts["settings"]
    groups = {row["task"] for row in json.loads(artifacts["results-table"])}
    assert {"domain_bits_per_byte", "general_text"} <= groups


def test_deployment_run_with_problems_is_refused_before_its_first_stage(site: Any, client: SyncPrefectClient) -> None:
    config = json.loads(site.config.model_dump_json())
    config |= {"name": "refused", "base": {"model": "/no/model"}}
    config["curation"]["sources"][0]["paths"] = ["/no/<documents>*.txt"]
    refused = wait(client, start(client, "adapt/adapt-advanced", config))
    assert refused.state_type == StateType.FAILED
    problems = artifacts_of(client, refused.id)["problems"]
    for text in ("base.model: there is no folder /no/model", "curation.sources[0].paths[0]"):
        assert text in str(refused.state and refused.state.message)
        assert text.replace("[", r"\[").replace("]", r"\]") in problems
    assert "<documents>" not in problems
    assert not client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[refused.id])))


UNCHECKED = """
import sys
from pathlib import Path

import tasks.checking
from flows.adapt import adapt
from mixcpt.config import AdaptConfig

tasks.checking.subprocess = None  # a check would fail
result = adapt(AdaptConfig.model_validate_json(Path(sys.argv[1]).read_text()))
print(result.name, sorted({"torch", "transformers"} & {*sys.modules}))
"""


def test_finished_run_is_neither_checked_nor_imports_torch(site: Any, adapted: AdaptConfig, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(adapted.model_dump_json())
    command = [sys.executable, "-c", UNCHECKED, str(tmp_path / "request.json")]
    environment = {**os.environ, "PREFECT_API_URL": site.stack.api}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines()[-1:] == [f"{adapted.name} []"], done.stderr


def test_traditional_chain_runs_on_the_corpus_of_the_run_and_shares_its_page(
    site: Any, adapted: AdaptConfig, tmp_path: Path
) -> None:
    config: AdaptConfig = site.config_at(tmp_path / "both")
    store = Path(config.runtime.store)
    shutil.copytree(adapted.runtime.store, store, dirs_exist_ok=True)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"with_traditional": True})})
    (tmp_path / "request.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "flows", "adapt", str(tmp_path / "request.json")]
    environment = {**os.environ, "PREFECT_API_URL": site.stack.api, CHECKED: fingerprint(config)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("RESULT {")
    page = (store / "report.html").read_text()
    assert "tiny-traditional" in page
    assert len([*store.glob("corpus/*/COMPLETE")]) == 1
    assert len([*store.glob("run/*/COMPLETE")]) == 2


def test_refused_run_in_the_terminal_has_exit_code_2_and_no_traceback(site: Any, tmp_path: Path) -> None:
    config = site.config.model_copy(update={"base": BaseModelConfig(model="/no/model")})
    (tmp_path / "request.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "flows", "adapt", str(tmp_path / "request.json")]
    environment = {**os.environ, "PREFECT_API_URL": site.stack.api}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert "base.model: there is no folder /no/model" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def artifacts_of(client: SyncPrefectClient, flow_run: UUID) -> dict[str, str]:
    """Return the artifacts of a flow run as text, by key."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    return {str(artifact.key): str(artifact.data) for artifact in client.read_artifacts(flow_run_filter=of_run)}


def test_deployment_edited_form_runs_through_the_worker(
    site: Any, client: SyncPrefectClient, adapted: AdaptConfig, wait_until: Callable[..., None]
) -> None:
    config = json.loads(adapted.model_dump_json())
    config["name"] = "edited"
    config["align"]["selection"]["num_preferences"] = 0
    flow_run = start(client, "adapt/adapt-advanced", config)
    wait_until(lambda: client.read_flow_run(flow_run).state_type == StateType.RUNNING)
    upkeep = client.read_deployment_by_name("reconcile/reconcile").parameters["config"] | {"dry_run": True}
    upkeep_run = wait(client, start(client, "reconcile/reconcile", upkeep))
    edited = wait(client, flow_run)
    assert edited.state_type == StateType.COMPLETED, edited.state
    assert upkeep_run.state_type == StateType.COMPLETED, upkeep_run.state
    # upkeep has its own worker, and so does not wait for adaptations
    assert upkeep_run.work_pool_name and upkeep_run.work_pool_name != edited.work_pool_name

    tracking = MlflowClient(site.stack.mlflow)
    experiment = tracking.get_experiment_by_name(adapted.runtime.experiment)
    assert experiment is not None
    runs = {run.info.run_name: run for run in tracking.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {"edited", "curate", "mix", "pretrain", "select", "sft"} < set(runs)
    assert "dpo" not in runs
    artifacts = artifacts_of(client, flow_run)
    assert runs["edited"].info.run_id in artifacts["mlflow-run"]
    assert [row["task"] for row in json.loads(artifacts["results-table"])] == ["domain_text", "general_text"]
    assert "| task |" in artifacts["results"]
    # stages that another database knew already are recorded here with all their steps
    history = tracking.get_metric_history(runs["pretrain"].info.run_id, "train/loss")
    assert len(history) > 40
