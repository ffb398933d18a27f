"""The connection to MLflow: no duplicates after a resume, correct statuses, and outages that stop no run."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Metric

from mixcpt.config import RuntimeConfig
from mixcpt.records.run import RunResult
from mixcpt.report.summary import summarise
from mixcpt.servers.stack import free_port
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.spool import Measurement
from tasks.rows import BASE_ROW, METRICS_TABLE, compare_path, record_rows, start_tags
from tasks.stage_runs import begin_parent, close_flow_run
from tasks.tracking import FLOW_RUN, PARENT, RUN_KEY, Place, Tracking, flatten, open_tracking
from tests.unit.report_artifacts import hits, run


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    return open_tracking(Place(f"sqlite:///{folder / 'mlflow.db'}", "trial", (folder / "files").as_uri()))


def open_run(tracking: Tracking, key: str, **tags: str) -> str:
    return tracking.open(RUN_KEY, key, "a run", parent="", tags=tags, params={"seed": 0}).run_id


def status(tracking: Tracking, run_id: str) -> str:
    return str(tracking.client.get_run(run_id).info.status)


def measured(*steps: int) -> list[Measurement]:
    return [Measurement(step, {"train/loss": 1.0 / step}, 1_700_000_000.0 + step) for step in steps]


def test_opening_a_store_does_not_redirect_later_runs_of_the_process(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RuntimeConfig(store=str(tmp_path))
    own = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking.client.tracking_uri == tracking.place.uri != own
    assert Place.of(runtime).uri == own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert open_tracking(Place.of(runtime)).client.tracking_uri == Place.of(runtime).uri == "http://127.0.0.1:9"


def test_reopened_run_is_the_same_and_running(tracking: Tracking) -> None:
    first = open_run(tracking, "again")
    tracking.close(first, "FAILED")
    assert open_run(tracking, "again") == first
    assert status(tracking, first) == "RUNNING"


def test_measurements_of_a_resumed_training_are_logged_once(tracking: Tracking) -> None:
    run_id = open_run(tracking, "resumed")
    tracking.log_measurements(run_id, measured(10, 20, 30), {})
    again = tracking.open(RUN_KEY, "resumed", "a run", parent="", tags={}, params={})  # by a new process
    last_steps = tracking.last_steps(again)
    tracking.log_measurements(run_id, measured(10, 20, 30, 20, 30, 40), last_steps)
    history = tracking.client.get_metric_history(run_id, "train/loss")
    assert [metric.step for metric in history] == [10, 20, 30, 40]
    assert last_steps == {"train/loss": 40}


def test_figures_are_logged_once_with_measurements_for_several_requests(tracking: Tracking) -> None:
    run_id, last_steps = open_run(tracking, "figures"), {"train/loss": 10}
    tags = {"of": "attempt"}
    for seconds in (2.0, 3.0):  # the figure of the first attempt is kept
        figures = [Metric("stage/seconds", seconds, 1_700_000_000_000, 0)]
        tracking.log_measurements(run_id, measured(*range(1, 1201)), last_steps, figures=figures, tags=tags)
    data = tracking.client.get_run(run_id).data
    assert (data.metrics["stage/seconds"], data.tags["of"]) == (2.0, "attempt")
    steps = [metric.step for metric in tracking.client.get_metric_history(run_id, "train/loss")]
    assert steps == list(range(11, 1201))


def test_tags_without_measurements_are_logged(tracking: Tracking) -> None:
    run_id = open_run(tracking, "tagged")
    tracking.tag(run_id, {"one": "1", "two": "2"})
    assert {"one": "1", "two": "2"}.items() <= tracking.client.get_run(run_id).data.tags.items()


def test_flow_run_closes_only_its_own_open_runs(tracking: Tracking) -> None:
    mine, done, other = (open_run(tracking, key, **{FLOW_RUN: flow}) for key, flow in zip("abc", "xxy", strict=True))
    tracking.close(done, "FINISHED")
    close_flow_run(tracking, "x", "KILLED")
    assert [status(tracking, run_id) for run_id in (mine, done, other)] == ["KILLED", "FINISHED", "RUNNING"]


def test_open_runs_are_closed_only_if_their_process_is_dead(tracking: Tracking) -> None:
    place = tracking.place
    code = (
        "from tasks.tracking import *\n"
        f"door = open_tracking(Place({place.uri!r}, {place.experiment!r}))\n"
        "print(door.open(RUN_KEY, 'orphan', 'a run', parent='', tags={}, params={}).run_id)"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    orphan, living = printed.split()[-1], open_run(tracking, "living")
    tracking.close_abandoned()
    assert status(tracking, orphan) == "KILLED"
    assert status(tracking, living) == "RUNNING"


def test_long_parameter_is_cut_and_all_others_are_kept(tracking: Tracking) -> None:
    params = {"paths": "x" * 10_000, **{f"field{index}": index for index in range(250)}}
    run_id = tracking.open(RUN_KEY, "long", "a run", parent="", tags={}, params=params).run_id
    logged = tracking.client.get_run(run_id).data.params
    assert len(logged) == 251
    assert 100 < len(logged["paths"]) <= 500


def test_outage_returns_none_and_pauses_requests(caplog: pytest.LogCaptureFixture) -> None:
    away = Tracking(Place(f"http://127.0.0.1:{free_port()}", "trial"))
    assert begin_parent(away, "key", "name", tags={}, params={}) is None
    assert "is not used for a minute" in caplog.text
    started = time.monotonic()
    assert begin_parent(away, "key", "name", tags={}, params={}) is None
    assert time.monotonic() - started < 0.1


def test_flatten_names_leaves_by_their_path() -> None:
    assert flatten({}) == {}
    assert flatten({"a": {"b": 1, "c": []}, "d": [{"e": None}]}) == {"a.b": 1, "a.c": [], "d.0.e": None}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def result(artifacts: ArtifactStore) -> RunResult:
    return adapted(artifacts, "mine")


def adapted(store: ArtifactStore, name: str, method: str = "lssd") -> RunResult:
    base = {"domain_questions": hits(20, 0.2), "general_questions_unasked": hits(20, 0.8)}
    final = {"domain_questions": hits(20, 0.7), "general_questions_unasked": hits(20, 0.8)}
    return run(store, name, method=method, base_right=base, pretrained_right=final, final_right=final, final_bits=[1.0])


def recorded(tracking: Tracking, result: RunResult) -> tuple[str, list[str]]:
    """Record the rows of a result below a run of its own, and return that run and the runs to compare."""
    summary = summarise([result])
    tags = start_tags(result.config, result.base)
    run_id = tracking.open(RUN_KEY, result.name, result.name, parent="", tags=tags, params={}).run_id
    return run_id, record_rows(tracking, run_id, result, summary)


def test_base_traditional_and_mixcpt_are_three_rows_with_equal_metrics(
    artifacts: ArtifactStore, tracking: Tracking, result: RunResult
) -> None:
    traditional = adapted(artifacts, "traditional", "cpt_replay")
    evaluations = {**traditional.evaluations, "base": result.evaluations["base"]}  # found in the store
    traditional_id, _ = recorded(tracking, replace(traditional, evaluations=evaluations))
    mixcpt_id, compared = recorded(tracking, result)
    base_id = compared[0]
    assert compared == [base_id, mixcpt_id, traditional_id]
    runs = [tracking.client.get_run(run_id) for run_id in compared]
    assert len({frozenset(run.data.metrics) for run in runs}) == 1
    assert [run.data.tags["method"] for run in runs] == ["none (base model)", "lssd", "cpt_replay"]
    assert {run.data.tags["model"] for run in runs} == {"tiny-base"}
    assert all(PARENT not in run.data.tags for run in runs)
    assert runs[0].data.metrics["domain"] == pytest.approx(0.2)
    assert runs[1].data.tags[BASE_ROW] == runs[2].data.tags[BASE_ROW] == base_id
    assert all(run_id in compare_path(tracking, compared) for run_id in compared)


def test_rows_of_base_and_model_before_alignment_have_a_file_as_every_compared_run_needs(
    tracking: Tracking, result: RunResult
) -> None:
    run_id, (base_id, *_) = recorded(tracking, result)
    (early,) = tracking.find(f"tags.`{PARENT}` = '{run_id}'", 10)
    for row in (base_id, early.info.run_id):
        assert [file.path for file in tracking.client.list_artifacts(row)] == [METRICS_TABLE]


def test_rows_recorded_again_are_the_same_runs(tracking: Tracking, result: RunResult) -> None:
    first = recorded(tracking, result)
    num_runs = len(tracking.find("", 1000))
    assert recorded(tracking, result) == first
    assert len(tracking.find("", 1000)) == num_runs


def test_base_row_is_another_one_if_the_headline_tasks_differ(tracking: Tracking, result: RunResult) -> None:
    _, (base_id, *_) = recorded(tracking, result)
    evaluate = result.config.evaluate.model_copy(update={"headline_domain": "domain_bits"})
    config = result.config.model_copy(update={"evaluate": evaluate, "name": "bits"})
    _, (other_id, *_) = recorded(tracking, replace(result, config=config))
    assert other_id != base_id
    assert tracking.client.get_run(other_id).data.metrics["domain"] == pytest.approx(2.0)
    assert tracking.client.get_run(base_id).data.metrics["domain"] == pytest.approx(0.2)


def test_base_row_gets_the_metrics_that_only_a_later_adaptation_has(tracking: Tracking, result: RunResult) -> None:
    config = result.config.model_copy(update={"name": "later"})
    first_id, (base_id, *_) = recorded(tracking, replace(result, config=config))
    for run_id in (first_id, base_id):
        assert "drift" in tracking.client.get_run(run_id).data.metrics


def test_model_before_alignment_is_a_row_below_its_adaptation(tracking: Tracking, result: RunResult) -> None:
    run_id, _ = recorded(tracking, result)
    (early,) = tracking.find(f"tags.`{PARENT}` = '{run_id}'", 10)
    assert early.info.run_name == "mine before alignment"
    assert set(early.data.metrics) == set(tracking.client.get_run(run_id).data.metrics)
