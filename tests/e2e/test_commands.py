"""The command line from the user's side: help, a first configuration, the demo, real text."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.config import load_config
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef

ROOT = Path(__file__).parents[2]
FEW_TOKENS = ("mixture.total_tokens=8000", "align.selection.num_candidates=40", "align.selection.num_instructions=8")
FEW_QUESTIONS = tuple(f"evaluate.tasks.{number}.limit=6" for number in range(10))


def mixcpt(*arguments: str | Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mixcpt", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
        timeout=timeout,
    )


def settings(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def test_help_of_the_program_names_its_commands() -> None:
    shown = mixcpt("--help")
    assert shown.returncode == 0, shown.stderr
    assert {"demo", "init", "validate", "plan", "run"} <= set(shown.stdout.split())


def test_init_writes_a_configuration_for_own_documents_that_validates(tmp_path: Path, readable_model: ModelRef) -> None:
    (tmp_path / "docs").mkdir()
    for number in range(30):
        text = f"# Note {number}\n\nAlda keeps an owl in tower {number} by the river.\n"
        (tmp_path / "docs" / f"note-{number}.md").write_text(text)
    pairs = tmp_path / "general.jsonl"
    pairs.write_text(json.dumps({"prompt": "who keeps ?", "response": "Alda"}) + "\n")
    config = tmp_path / "my.yaml"
    model = readable_model.path
    written = mixcpt("init", config, "--documents", tmp_path / "docs", "--instructions", pairs, "--model", model)
    assert written.returncode == 0, written.stderr
    assert load_config(config).name == "my"
    again = mixcpt("init", config, "--documents", tmp_path / "docs", "--model", model)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    checked = mixcpt("validate", config)
    assert checked.returncode == 0, checked.stderr
    refused = mixcpt("validate", config, "--set", "mixture.row_tokens=1024")
    assert refused.returncode == 2
    assert "mixture.row_tokens is 1024, but bytes reads at most 256 tokens" in refused.stderr


def test_init_reference_writes_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    assert mixcpt("init", path, "--reference").returncode == 0
    assert path.read_text().count("#") > 80
    assert load_config(path) == load_config()


@pytest.mark.e2e
def test_demo_in_short_ends_with_the_result_and_computes_nothing_twice(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = ("demo", "--store", store, *settings(*FEW_TOKENS, *FEW_QUESTIONS))
    done = mixcpt(*command)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    result = json.loads(last.removeprefix("RESULT "))
    assert list(result) == ["base", "traditional", "mixcpt", "seconds"]
    assert all(set(result[name]) == {"domain", "general"} for name in ("base", "traditional", "mixcpt"))
    assert result["base"]["general"] == 1.0
    assert "learned against forgotten" in (store / "report.html").read_text().lower()
    times = {record: record.stat().st_mtime_ns for record in store.glob("*/*/record.json")}
    again = mixcpt(*command)
    assert again.returncode == 0, again.stderr
    assert {record: record.stat().st_mtime_ns for record in store.glob("*/*/record.json")} == times
    repeated = json.loads(again.stdout.strip().splitlines()[-1].removeprefix("RESULT "))
    assert {**repeated, "seconds": 0} == {**result, "seconds": 0}


@pytest.mark.e2e
@pytest.mark.long
def test_real_model_learns_real_text_in_short(tmp_path: Path, shared_data: Path) -> None:
    config = tmp_path / "short.yaml"
    preset = (ROOT / "deployments" / "configs" / "tinystories-anatomy.yaml").read_text()
    config.write_text(preset.replace("../shared/data", str(shared_data)))
    overrides = [
        f"runtime.store={tmp_path / 'store'}",
        "mixture.total_tokens=60000",
        "curation.sources.0.limit=30",
        "curation.sources.1.limit=200",
        "curation.sources.2.limit=100",
        "align.selection.num_candidates=30",
        "align.selection.num_instructions=8",
        "align.selection.num_preferences=4",
        *(f"evaluate.tasks.{number}.limit={limit}" for number, limit in enumerate((2, 5, 5, 12, 12, 12))),
    ]
    done = mixcpt("run", config, *settings(*overrides))
    assert done.returncode == 0, done.stderr
    store = ArtifactStore(tmp_path / "store")
    (run,) = store.list("run")
    evaluations = json.loads(run.file("run.json").read_text())["evaluations"]
    bits = {
        role: task_value(Path(evaluations[role]["path"]), "anatomy_bits_per_byte") for role in ("base", "pretrained")
    }
    assert bits["pretrained"] < bits["base"] - 0.05
    page = re.sub(r"\s+", " ", (store.root / "report.html").read_text())
    for task in ("stories bits per byte", "web bits per byte", "arc easy", "sciq"):
        assert task in page


def task_value(evaluation: Path, task: str) -> float:
    summary = json.loads((evaluation / "summary.json").read_text())
    return float(next(entry["value"] for entry in summary["tasks"] if entry["task"] == task))
