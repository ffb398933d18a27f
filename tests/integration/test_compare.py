"""A comparison on real servers: tuned on one split, reported on another, nested in MLflow, computed only once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mixcpt.config import CompareConfig
from mixcpt.evaluate.asking.manifest import Manifest
from mixcpt.records.comparison import Comparison, load_comparison
from mixcpt.store.artifacts import ArtifactStore
from tests.processes import workers_of

pytestmark = [pytest.mark.e2e, pytest.mark.long]
NAMES = ("Alda", "Boren", "Cira", "Dovan", "Elin", "Faro")
THINGS = ("fox", "owl", "heron", "river", "tower", "gold", "iron")


def questions(path: Path, shift: int) -> str:
    rows = [
        {"id": f"q{n}", "doc_id": f"d{n // 2}", "question": f"what is {NAMES[n % 6]} ?", "answer": (n + shift) % 3}
        | {"choices": [THINGS[n % 7], THINGS[(n + 1) % 7], THINGS[(n + 3) % 7]]}
        for n in range(80)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def compared(
    site: Any, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]
) -> tuple[CompareConfig, Comparison]:
    """A comparison that was terminated during its first trainings and started again."""
    folder = tmp_path_factory.mktemp("compare")
    tasks = [
        {"kind": "multiple_choice", "name": name, "group": name, "path": questions(folder / f"{name}.jsonl", shift)}
        for shift, name in enumerate(("domain", "general"))
    ]
    common = site.config_at(folder / "store").model_dump(mode="json", exclude={"name", "seed"})
    common |= {
        "evaluate": {"tasks": tasks, "headline_domain": "domain", "headline_general": "general", "open_book": False},
        "mixture": common["mixture"] | {"total_tokens": 6000},
        "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
    }
    config = CompareConfig.model_validate(
        {
            "name": "small",
            "settings": common,
            "contenders": [
                {"name": "replay", "settings": {"pretrain": {"method": {"kind": "cpt_replay"}}}},
                {"name": "lssd", "settings": {"pretrain": {"method": {"kind": "lssd", "alpha": 0.3}}}},
            ],
            "search": {"values": [0.001, 0.01]},
            "seeds": [0, 1],
            "jobs": 2,
        }
    )
    store = Path(config.runtime.store)
    process = site.start(config)
    wait_until(lambda: any(store.glob("work/model/*")))
    process.terminate()
    assert process.wait(timeout=60) != 0
    wait_until(lambda: not workers_of(store), seconds=20)
    site.adapt(config)
    (ref,) = ArtifactStore(config.runtime.store).list("comparison")
    return config, load_comparison(ref)


def test_compare_tunes_on_one_split_and_reports_another(compared: tuple[CompareConfig, Comparison]) -> None:
    _, comparison = compared
    assert [(tried.contender, tried.value) for tried in comparison.tried] == [
        (name, value) for name in ("replay", "lssd") for value in (0.001, 0.01)
    ]
    for result in comparison.results:
        own = [tried for tried in comparison.tried if tried.contender == result.contender]
        assert result.value == max(own, key=lambda tried: tried.score).value
        assert [run.config.seed for run in result.runs] == [0, 1]
        manifests = [Manifest.of(run.evaluations["final"]) for run in result.runs]
        assert {manifest.split for manifest in manifests} == {"report"}
        assert len({manifest.digest for manifest in manifests}) == 1
        assert len({run.refs["pretrained"].digest for run in result.runs}) == 2
        assert {run.refs["corpus"].digest for run in result.runs} == {
            comparison.results[0].runs[0].refs["corpus"].digest
        }


def test_compare_nests_its_trainings_below_one_mlflow_run(compared: tuple[CompareConfig, Comparison]) -> None:
    config, comparison = compared
    client = MlflowClient(f"sqlite:///{config.runtime.store}/mlflow.db")
    parent = client.get_run(comparison.run_id)
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert parent.info.status == "FINISHED"
    assert {child.info.status for child in children} == {"FINISHED"}
    assert len(children) == 2 * 2 + 2 * 2  # search; report
    assert {"lssd/value/domain", "replay/delta/general"} <= parent.data.metrics.keys()
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"comparison.html", "comparison.md", "comparison.json"}


def test_repeated_compare_computes_nothing_and_a_new_contender_is_trained_only_itself(
    site: Any, compared: tuple[CompareConfig, Comparison]
) -> None:
    config, _ = compared
    store = Path(config.runtime.store)
    records = set(store.glob("*/*/record.json"))
    site.adapt(config)
    assert set(store.glob("*/*/record.json")) == records
    page = (store / "comparison-small.html").read_text()
    assert "difference from" in page and "device time" in page
    third = {"name": "kl", "settings": {"pretrain": {"method": {"kind": "kl"}}}}
    more = CompareConfig.model_validate(
        config.model_dump(mode="json") | {"contenders": [*config.model_dump(mode="json")["contenders"], third]}
    )
    site.adapt(more)
    new = [path.relative_to(store).parts[0] for path in set(store.glob("*/*/record.json")) - records]
    assert new.count("model") == 3  # two values of the search, of which one has the first seed; the second seed
    assert new.count("comparison") == 1
