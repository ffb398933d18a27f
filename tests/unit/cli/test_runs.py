"""`mixcpt runs`: finished, unfinished and damaged runs of a store."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixcpt.cli import app
from mixcpt.config import AdaptConfig
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "store")
    run(
        store,
        "made",
        base_right={DOMAIN: hits(40, 0.0), GENERAL: hits(50, 0.9)},
        final_right={DOMAIN: hits(40, 0.9), GENERAL: hits(50, 0.8)},
    )
    return store


def listed(store: ArtifactStore) -> list[dict[str, object]]:
    shown = CliRunner().invoke(app, ["runs", "--json", "--store", str(store.root)])
    assert shown.exit_code == 0, shown.output
    entries: list[dict[str, object]] = json.loads(shown.output)
    return entries


def test_finished_run_has_its_headline_figures(store: ArtifactStore) -> None:
    (entry,) = listed(store)
    assert (entry["name"], entry["state"], entry["method"]) == ("made", "finished", "lssd")
    assert entry["domain"] == {"task": DOMAIN, "metric": "accuracy", "base": 0.0, "final": 0.9}
    assert entry["general"] == {"task": GENERAL, "metric": "accuracy", "base": 0.9, "final": 0.8}


def test_moved_store_lists_the_same_figures(store: ArtifactStore) -> None:
    before = listed(store)
    assert listed(ArtifactStore(store.root.rename(store.root.with_name("elsewhere")))) == before


def test_requested_run_without_a_result_is_unfinished(store: ArtifactStore) -> None:
    requests = store.root / "requests"
    requests.mkdir()
    (requests / "new-1.json").write_text(AdaptConfig(name="new", seed=7).model_dump_json())
    (requests / "broken.json").write_text("{")
    (requests / "reconcile-1.json").write_text('{"dry_run": true}')
    assert [(entry["name"], entry["state"]) for entry in listed(store)] == [("made", "finished"), ("new", "unfinished")]


def test_run_with_damaged_evaluations_is_listed_as_damaged(store: ArtifactStore) -> None:
    for summary in store.root.glob("evaluation/*/summary.json"):
        summary.unlink()
    (entry,) = listed(store)
    assert (entry["name"], entry["state"]) == ("made", "damaged")


def test_table_names_the_runs_and_the_next_command(store: ArtifactStore) -> None:
    shown = CliRunner().invoke(app, ["runs", "--store", str(store.root)], env={"COLUMNS": "200"})
    assert "finished" in shown.output
    assert "90.0" in shown.output
    assert "next: mixcpt report made" in shown.output


def test_empty_store_says_how_to_add_a_run(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["runs", "--store", str(tmp_path)])
    assert shown.exit_code == 0
    assert "has no runs yet" in shown.output
