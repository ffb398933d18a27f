"""The deployment as the UI uses it: the form, an edited run through a real worker, and a bad value."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError

from benchmarks.flow_runs import start, wait
from mixcpt.config import AdaptConfig

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(site: Any) -> Iterator[SyncPrefectClient]:
    with SyncPrefectClient(site.stack.api) as client:
        yield client


def test_deployment_form_explains_every_field_and_has_defaults(client: SyncPrefectClient) -> None:
    schema = client.read_deployment_by_name("adapt/adapt-advanced").parameter_openapi_schema
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
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    artifacts = {artifact.key: str(artifact.data) for artifact in client.read_artifacts(flow_run_filter=of_run)}
    assert runs["edited"].info.run_id in artifacts["mlflow-run"]
    (row,) = json.loads(artifacts["results-table"])
    assert row["task"] == "domain_text"
    assert "| task |" in artifacts["results"]
    # stages that another database knew already are recorded here with all their steps
    history = tracking.get_metric_history(runs["pretrain"].info.run_id, "train/loss")
    assert len(history) > 40
