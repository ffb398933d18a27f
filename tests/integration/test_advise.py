"""A search for mixture settings on real servers, with promised retention: search, confirmation, repetition."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mixcpt.config import AdviseConfig
from mixcpt.records.comparison import Advice, load_comparison
from mixcpt.store.artifacts import ArtifactStore
from tests.integration.test_compare import questions

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def config(site: Any, tmp_path_factory: pytest.TempPathFactory) -> AdviseConfig:
    folder = tmp_path_factory.mktemp("advise")
    tasks = [
        {"kind": "multiple_choice", "name": name, "group": name, "path": questions(folder / f"{name}.jsonl", shift)}
        for shift, name in enumerate(("domain", "general"))
    ]
    common = site.config_at(folder / "store").model_dump(mode="json", exclude={"name", "seed"})
    common |= {
        "evaluate": {
            "tasks": tasks,
            "headline_domain": "domain",
            "headline_general": "general",
            "open_book": False,
            "split": "report",
        },
        "mixture": common["mixture"] | {"total_tokens": 3000},
        "pretrain": common["pretrain"] | {"retention": {"max_loss": 0.5, "action": "alpha", "check_steps": 5}},
        "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
    }
    return AdviseConfig.model_validate(
        {"name": "small-advice", "settings": common, "num_trials": 4, "seeds": [0], "jobs": 2}
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_advise_searches_confirms_and_repeats_nothing(site: Any, config: AdviseConfig) -> None:
    site.adapt(config)
    store = ArtifactStore(config.runtime.store)
    (ref,) = store.list("advice")
    advice = Advice.from_json(json.loads(ref.file("advice.json").read_text()))
    assert len(advice.attempts) == 4
    assert dict(advice.attempts[0].point) == config.start
    (confirmation,) = store.list("comparison")
    confirmed = load_comparison(confirmation)
    assert confirmed.config.name == "small-advice"
    assert [result.contender for result in confirmed.results] == ["given", "advised"]
    for result in confirmed.results:
        assert [run.config.seed for run in result.runs] == [0]
        for run in result.runs:
            assert run.config.evaluate.split == "report"
            assert set(run.evaluations) == {"base", "final", "selection-base", "selection-final"}
            assert run.refs["probe"].record["metrics"]["questions"] >= 2
            kept = run.refs["pretrained"].record["metrics"]["retention"]
            assert 0 < kept["share_of_change"] <= 1 and kept["retention/general/lost_at_most"] <= 0.5
    page = (Path(config.runtime.store) / "advice-small-advice.html").read_text()
    assert "ettings of the best training" in page or "Recommended settings" in page

    records = set(store.root.glob("*/*/record.json"))
    site.adapt(config)
    assert set(store.root.glob("*/*/record.json")) == records

    client = MlflowClient(f"sqlite:///{config.runtime.store}/mlflow.db")
    experiment = client.get_experiment_by_name(Path(config.runtime.store).name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_name: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    assert {"small-advice-search", "small-advice"} <= parents.keys()
    search = parents["small-advice-search"]
    assert {file.path for file in client.list_artifacts(search.info.run_id)} == {
        *("advice.html", "advice.md", "advice.json")
    }
    assert search.data.metrics["best/score"] == pytest.approx(advice.best.score)
    assert {run.info.status for run in runs} == {"FINISHED"}
