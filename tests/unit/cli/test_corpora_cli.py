"""`mixcpt corpus` and `mixcpt lineage --document` on the command line."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from mixcpt.cli.inspect import lineage
from mixcpt.cli.rounds import corpus
from mixcpt.store.artifacts import ArtifactStore


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def bones(tmp_path: Path) -> Path:
    """Return a folder of documents with one broken line and one duplicate."""
    texts = [f"Bone number {number} of the hand lies next to its neighbours." for number in range(30)]
    lines = [json.dumps({"id": f"b{number}", "text": text}) for number, text in enumerate([*texts, texts[0]])]
    folder = tmp_path / "bones"
    folder.mkdir()
    (folder / "hand.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    return folder


def mixcpt(tmp_path: Path, *arguments: object) -> Result:
    app = typer.Typer()
    app.add_typer(corpus, name="corpus")
    app.command()(lineage)
    return CliRunner().invoke(app, [*map(str, arguments), "--store", str(tmp_path / "store")])


def test_corpus_add_counts_documents_and_reports_the_notification(tmp_path: Path, bones: Path) -> None:
    added = mixcpt(tmp_path, "corpus", "add", bones, "--note", "from [bold]the[/bold] library")
    assert added.exit_code == 0, added.output
    assert "bones: " in added.stdout
    assert "1 removed, 1 quarantined, 1 tasks" in added.stdout
    assert "re-adaptation finds it" in " ".join(added.stderr.split())
    listed = mixcpt(tmp_path, "corpus", "list").stdout
    assert "[bold]" in listed


def test_corpus_add_again_changes_nothing_and_new_documents_are_a_further_delivery(tmp_path: Path, bones: Path) -> None:
    assert mixcpt(tmp_path, "corpus", "add", bones).exit_code == 0
    again = mixcpt(tmp_path, "corpus", "add", bones)
    assert again.exit_code == 0, again.output
    assert "registered already" in again.stderr
    store = ArtifactStore(tmp_path / "store")
    assert len(store.list("registration")) == 1
    more = [json.dumps({"id": f"m{n}", "text": f"Muscle number {n} of the arm pulls at its bone."}) for n in range(20)]
    (bones / "arm.jsonl").write_text("\n".join(more) + "\n")
    grown = mixcpt(tmp_path, "corpus", "add", bones)
    assert "bones-2: " in grown.stdout
    assert len(store.list("registration")) == 2


def test_corpus_add_of_a_missing_path_is_refused(tmp_path: Path) -> None:
    refused = mixcpt(tmp_path, "corpus", "add", tmp_path / "nowhere")
    assert refused.exit_code == 2
    assert "does not exist" in refused.stderr


def test_lineage_of_a_document_names_its_corpus_and_a_wrong_one_is_refused(tmp_path: Path, bones: Path) -> None:
    assert mixcpt(tmp_path, "corpus", "add", bones).exit_code == 0
    result = mixcpt(tmp_path, "lineage", "--document", "Bone number 7 of the hand", "--json")
    assert result.exit_code == 0, result.output
    (lineage_record,) = json.loads(result.stdout)
    assert lineage_record["document"].endswith("b7")
    assert lineage_record["models"] == []
    words = mixcpt(tmp_path, "lineage", "--document", "hand.jsonl").stdout
    assert "waits for its round" in " ".join(words.split())
    missing = mixcpt(tmp_path, "lineage", "--document", "a spaceship")
    assert missing.exit_code == 2
    assert "no corpus" in missing.stderr
    both = mixcpt(tmp_path, "lineage", "my-run", "--document", "x")
    assert "give a model, or --document" in both.stderr
