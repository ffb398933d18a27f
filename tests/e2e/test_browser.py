"""Work in a browser: edit the form, start a run, watch it, read its table; compare models in MLflow.

The tests write pictures to `test-results/browser`.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import TERMINAL_STATES

from mixcpt.servers.stack import Stack, free_port, running_stack

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "test-results" / "browser"
EDITS = {"Total Tokens": 8000, "Num Candidates": 40, "Num Instructions": 8, "Num Preferences": 8}
FIELD = (
    '//*[self::label or self::span or self::div][normalize-space(text())="{} (Optional)"]'
    "/following::*[self::input or self::textarea][1]"
)
METRIC = "eval/domain_bits_per_byte/bits_per_byte"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("browser") / "store", free_port(), free_port()) as (stack, _):
        yield stack


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Open a page in a headless Chromium of the system, or of `playwright install chromium`."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def take_picture(page: Any, name: str, *, whole: bool = False) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(2000)  # charts are animated
    page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)


def open_form(page: Any, stack: Stack, deployment: str) -> None:
    page.goto(f"{stack.prefect}/deployments")
    page.get_by_role("link", name=deployment, exact=True).click()
    page.wait_for_url("**/deployments/deployment/**")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_role("button", name="Submit").wait_for()


def fill(page: Any, edits: dict[str, Any]) -> None:
    for label, value in edits.items():
        page.locator(f"xpath={FIELD.format(label)}").first.fill(str(value))


def submit(page: Any, stack: Stack, deployment: str) -> str:
    """Submit the form, open the page of its flow run, and return the id."""
    page.get_by_role("button", name="Submit").click()
    query = {"deployments": {"name": {"any_": [deployment]}}}
    for _ in range(180):  # a busy server takes long, and the notice of the page disappears after seconds
        if runs := httpx.post(f"{stack.api}/flow_runs/filter", json=query, timeout=60).raise_for_status().json():
            break
        page.wait_for_timeout(1000)
    else:
        take_picture(page, "form-not-submitted", whole=True)
        pytest.fail(f"the form of {deployment} has started no run; see form-not-submitted.png")
    (run,) = runs
    page.goto(f"{stack.prefect}/runs/flow-run/{run['id']}")
    return str(run["id"])


def state(stack: Stack, flow_run: str) -> str:
    answer = httpx.get(f"{stack.api}/flow_runs/{flow_run}", timeout=60).raise_for_status()
    return str(answer.json()["state"]["type"])


def artifacts(stack: Stack, **query: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{stack.api}/artifacts/filter", json=query, timeout=60).raise_for_status()
    return list(answer.json())


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("listitem").filter(has_text=name).click()


def close_dialogs(page: Any) -> None:
    """Close the dialogs that MLflow opens for a new visitor."""
    for label in ("Close guidance", "Close"):
        for button in page.get_by_role("button", name=label, exact=True).all():
            button.click()


@pytest.fixture(scope="module")
def runs(page: Any, stack: Stack, wait_until: Callable[..., None]) -> dict[str, str]:
    """Start Mix-CPT and the traditional chain from their forms, and return their flow runs."""
    open_form(page, stack, "adapt-demo-mixcpt")
    fill(page, {"Total Tokens": -1})
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("-1 is less than").first.wait_for()
    take_picture(page, "form-refuses-a-bad-value")

    fill(page, {"Name": "from-the-form", **EDITS})
    take_picture(page, "form", whole=True)
    started = {"from-the-form": submit(page, stack, "adapt-demo-mixcpt")}
    wait_until(lambda: artifacts(stack, artifacts={"type": {"any_": ["progress"]}}), seconds=600)
    page.reload()
    take_picture(page, "run-under-way")
    (progress, *_) = artifacts(stack, artifacts={"type": {"any_": ["progress"]}})
    page.goto(f"{stack.prefect}/artifacts/artifact/{progress['id']}")
    page.get_by_text(progress["key"]).first.wait_for()
    take_picture(page, "progress")
    open_form(page, stack, "adapt-demo-traditional")
    fill(page, EDITS)
    started["traditional"] = submit(page, stack, "adapt-demo-traditional")
    for flow_run in started.values():
        wait_until(lambda flow_run=flow_run: state(stack, flow_run) in TERMINAL_STATES, seconds=1800)
        assert state(stack, flow_run) == "COMPLETED"
    return started


def test_short_form_fits_two_screens_without_json_and_refuses_an_empty_model(page: Any, stack: Stack) -> None:
    open_form(page, stack, "adapt")
    heights = "Math.max(...[...document.querySelectorAll('*')].map(element => element.scrollHeight))"
    assert page.evaluate(heights) <= 2 * page.viewport_size["height"]
    assert page.locator(".cm-editor").count() == 0  # how Prefect shows raw JSON
    assert page.get_by_role("button", name="Add item").count() == 4
    take_picture(page, "short-form")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("config.model").first.wait_for()
    take_picture(page, "short-form-refuses-an-empty-model")


def test_form_with_edited_values_starts_a_run_that_can_be_watched_and_read(
    page: Any, stack: Stack, runs: dict[str, str]
) -> None:
    flow_run = runs["from-the-form"]
    config = httpx.get(f"{stack.api}/flow_runs/{flow_run}", timeout=60).json()["parameters"]["config"]
    assert (config["name"], config["mixture"]["total_tokens"]) == ("from-the-form", EDITS["Total Tokens"])

    page.goto(f"{stack.prefect}/runs/flow-run/{flow_run}")
    open_tab(page, "Artifacts")
    page.get_by_role("link", name="results-table").click()
    page.wait_for_url("**/artifacts/artifact/**")
    page.get_by_text("general_questions_unasked").first.wait_for()
    take_picture(page, "result-table")
    (row,) = [
        row
        for artifact in artifacts(stack, artifacts={"key": {"any_": ["results-table"]}})
        for row in json.loads(artifact["data"])
        if artifact["description"].startswith("from-the-form") and row["task"] == "general_questions_unasked"
    ]
    assert row["base"] == 1.0
    assert 0 < row["final"] <= 1


def test_mlflow_compares_base_traditional_and_mixcpt(page: Any, stack: Stack, runs: dict[str, str]) -> None:
    client = MlflowClient(stack.mlflow)
    experiment = client.get_experiment_by_name("mixcpt")
    assert experiment is not None
    all_runs = client.search_runs([experiment.experiment_id])
    chosen = {name: next(run for run in all_runs if run.info.run_name == name) for name in ("evaluate-base", *runs)}
    page.goto(f"{stack.mlflow}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning")
    page.get_by_role("link", name="traditional").wait_for()
    close_dialogs(page)
    run_ids = ", ".join(f"'{run.info.run_id}'" for run in chosen.values())
    page.get_by_role("combobox", name="metrics.rmse").fill(f"attributes.run_id IN ({run_ids})")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(rf"^{len(chosen)} matching runs$")).wait_for()
    for parent in page.get_by_role("row").filter(has_text=re.compile("from-the-form|traditional")).all():
        for expander in parent.get_by_role("button").all():
            expander.click()
    page.get_by_role("link", name="evaluate-base", exact=True).wait_for()
    page.get_by_role("checkbox", name="Select all runs").check()
    take_picture(page, "mlflow-runs")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare-runs**")
    take_picture(page, "mlflow-compare")
    for section in ("Visualizations", "Parameters"):  # MLflow draws only visible rows
        page.get_by_role("button", name=section, exact=True).click()
    page.get_by_role("link", name=METRIC, exact=True).wait_for()
    take_picture(page, "mlflow-compare-metrics")
    names, values = (page.get_by_role("grid").nth(number).inner_text().split() for number in (0, 1))
    row = names.index(METRIC) * len(chosen)
    shown = sorted(map(float, values[row : row + len(chosen)]))
    assert shown == pytest.approx(sorted(run.data.metrics[METRIC] for run in chosen.values()), abs=0.001)


def test_mlflow_links_a_registered_model_to_its_data(page: Any, stack: Stack, runs: dict[str, str]) -> None:
    page.goto(f"{stack.mlflow}/#/models/mixcpt-adapted/versions/1")
    page.get_by_role("link", name="from-the-form").wait_for()
    page.keyboard.press("Escape")
    close_dialogs(page)
    page.get_by_role("heading", name="Training data").wait_for()
    take_picture(page, "mlflow-version", whole=True)
    page.get_by_role("link", name="from-the-form").click()
    page.get_by_role("heading", name="Datasets").wait_for()
    take_picture(page, "mlflow-run", whole=True)
    page.get_by_role("button", name="corpus").first.click()
    page.get_by_text("domain records").first.wait_for()
    take_picture(page, "mlflow-dataset")
