"""`mixcpt ledger`: the facts of a run in the terminal and in every file format."""

from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from mixcpt.cli.inspect import ledger as command
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    run(
        store,
        "made",
        base_right={DOMAIN: hits(40, 0.0), GENERAL: hits(50, 0.9)},
        final_right={DOMAIN: hits(40, 0.9), GENERAL: hits(50, 0.8)},
    )
    return store


def ledger(store: ArtifactStore, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, ["made", "--store", str(store.root), *arguments])


@pytest.mark.parametrize(("ending", "reader"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_ledger_writes_one_row_per_fact(store: ArtifactStore, tmp_path: Path, ending: str, reader: object) -> None:
    path = tmp_path / "new" / f"facts.{ending}"
    result = ledger(store, "--output", str(path))
    assert result.exit_code == 0, result.output
    rows = reader(path)  # type: ignore[operator]
    assert len(rows) == 90
    assert (rows[rows["task"] == DOMAIN]["state"] == "learned").sum() == 36


def test_ledger_writes_lines_of_json(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    assert ledger(store, "--output", str(path)).exit_code == 0
    rows = pd.read_json(path, lines=True)
    assert rows["documents"].map(type).eq(list).all()
    assert set(rows["task"]) == {DOMAIN, GENERAL}


def test_ledger_shows_counts_by_task_and_state(store: ArtifactStore) -> None:
    output = ledger(store).output
    assert "forgotten" in output
    assert " 36 " in output


def test_ledger_refuses_an_unknown_ending_before_it_works(store: ArtifactStore, tmp_path: Path) -> None:
    result = ledger(store, "--output", str(tmp_path / "facts.xlsx"))
    assert result.exit_code == 2
    assert "unknown ending '.xlsx'" in result.output
