"""The deployment as the UI uses it: the form, an edited run through a real worker, and a bad value."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import TERMINAL_STATES

from mixcpt.config import AdaptConfig

pytestmark = pytest.mark.e2e


def deployment(api: str, name: str = "adapt") -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{api}/deployments/name/{name}/{name}", timeout=60).raise_for_status().json()
    return found


def create_run(api: str, config: dict[str, Any], name: str = "adapt") -> httpx.Response:
    address = f"{api}/deployments/{deployment(api, name)['id']}/create_flow_run"
    request = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
    while (answer := httpx.post(address, json=request, timeout=60)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        time.sleep(1)  # a busy server with SQLite says so at times, and Prefect's own client tries again too
    return answer


def state(api: str, flow_run: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{api}/flow_runs/{flow_run}", timeout=60).raise_for_status().json()["state"]
    return found


def test_deployment_form_explains_every_field_and_has_defaults(site: Any) -> None:
    schema = deployment(site.stack.api)["parameter_openapi_schema"]
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
def test_deployment_bad_value_is_refused_before_start(site: Any, section: str, field: str, value: Any) -> None:
    config = json.loads(site.config.model_dump_json())
    config[section][field] = value
    answer = create_run(site.stack.api, config)
    assert answer.status_code == 409
    assert field in answer.text


def test_deployment_edited_form_runs_through_the_worker(
    site: Any, adapted: AdaptConfig, wait_until: Callable[..., None]
) -> None:
    config = json.loads(adapted.model_dump_json())
    config["name"] = "edited"
    config["align"]["selection"]["num_preferences"] = 0
    api = site.stack.api
    answer = create_run(api, config)
    assert answer.status_code == 201, answer.text
    flow_run = answer.json()["id"]
    wait_until(lambda: state(api, flow_run)["type"] == "RUNNING")
    upkeep = deployment(api, "reconcile")["parameters"]["config"] | {"dry_run": True}
    beside = create_run(api, upkeep, "reconcile").json()["id"]
    wait_until(lambda: state(api, flow_run)["type"] in TERMINAL_STATES)
    assert state(api, flow_run)["type"] == "COMPLETED", state(api, flow_run)
    # the only slot of its worker was taken: what takes seconds did not wait for it
    assert state(api, beside)["type"] == "COMPLETED", state(api, beside)
    assert state(api, beside)["timestamp"] < state(api, flow_run)["timestamp"]

    wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
    client = MlflowClient(site.stack.mlflow)
    experiment = client.get_experiment_by_name(adapted.runtime.experiment)
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {"edited", "curate", "mix", "pretrain", "select", "sft"} < set(runs)
    assert "dpo" not in runs
    artifacts = {item["key"]: item for item in httpx.post(f"{api}/artifacts/filter", json=wanted, timeout=60).json()}
    assert runs["edited"].info.run_id in artifacts["mlflow-run"]["data"]
    (row,) = json.loads(artifacts["results-table"]["data"])
    assert row["task"] == "domain_text"
    assert "| task |" in artifacts["results"]["data"]
    # stages that another database knew already are recorded here with all their steps
    history = client.get_metric_history(runs["pretrain"].info.run_id, "train/loss")
    assert len(history) > 40
