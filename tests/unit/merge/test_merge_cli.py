"""`mixcpt merge` from the command line: models in, a model out, and refusals with a remedy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import Result
from typer.testing import CliRunner

from mixcpt.cli.merge import merge
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import ModelRef
from tests.unit.merge_models import moved_model, other_model, resolve, weights_of

COMMANDS = ("interpolate", "residual", "average", "sweep")
DOCUMENTS = 30


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def tuned(tiny_model: ModelRef, tmp_path: Path) -> ModelRef:
    return moved_model(tiny_model, tmp_path / "tuned", 1)


def mixcpt(*arguments: object) -> Result:
    return CliRunner().invoke(merge, [str(argument) for argument in arguments])


def merged_folder(done: Result) -> Path:
    """Return the path in the last output line of a merge."""
    assert done.exit_code == 0, done.output
    return Path(done.stdout.splitlines()[-1])


def test_merge_is_a_command_of_the_program_and_names_its_own() -> None:
    shown = subprocess.run([sys.executable, "-m", "mixcpt", "merge", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert all(command in shown.stdout for command in COMMANDS)
    assert "closed-world" in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_merge_teaches(command: str) -> None:
    shown = mixcpt(command, "--help")
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.split()) > 60


def test_merges_build_on_each_other_by_name(tiny_model: ModelRef, tuned: ModelRef, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    half = merged_folder(mixcpt("interpolate", tiny_model.path, tuned.path, *store, "--weight", 0.5, "--name", "half"))
    restored = merged_folder(mixcpt("residual", "half", tuned.path, tiny_model.path, *store, "--scale", 0.5))
    mean = merged_folder(mixcpt("average", tiny_model.path, "half", tuned.path, *store))
    assert all(resolve(folder).max_tokens == 256 for folder in (half, restored, mean))
    base, end = weights_of(tiny_model.path), weights_of(tuned.path)
    torch.testing.assert_close(weights_of(restored), end)
    torch.testing.assert_close(weights_of(mean), {name: (base[name] + end[name]) / 2 for name in base})


def test_merge_prints_the_changes_and_whether_it_was_reused(
    tiny_model: ModelRef, tuned: ModelRef, tmp_path: Path
) -> None:
    command = ("interpolate", tiny_model.path, tuned.path, "--store", tmp_path / "store", "--weight", 0)
    first = mixcpt(*command, "--name", "same", "--max-shard-bytes", 20_000)
    assert "base: changed by 0 % of its norm" in first.stdout
    assert re.search(r"tuned: changed by \d+\.?\d* % of its norm", first.stdout)
    assert len(list(merged_folder(first).glob("model-*.safetensors"))) > 1
    assert "already" not in first.output
    again = mixcpt(*command, "--name", "other", "--max-shard-bytes", 20_000)
    assert "loaded from the store: this merge existed already, as same" in again.stderr
    assert merged_folder(again) == merged_folder(first)


def test_merge_that_is_impossible_exits_with_code_2_and_a_remedy(tiny_model: ModelRef, tmp_path: Path) -> None:
    other = other_model(tiny_model, tmp_path / "other", num_hidden_layers=3)
    store = ("--store", tmp_path / "store")
    refused = mixcpt("interpolate", tiny_model.path, other.path, *store)
    assert refused.exit_code == 2
    assert "has no tensor 'model.layers.2.input_layernorm.weight'" in refused.stderr
    assert "-> merge models of one architecture" in refused.stderr
    assert mixcpt("interpolate", tiny_model.path, tiny_model.path, *store, "--weight", 1.5).exit_code == 2
    unknown = mixcpt("average", tiny_model.path, "nobody", *store)
    assert unknown.exit_code == 2
    assert "has no run 'nobody'" in unknown.stderr


def test_sweep_shows_every_weight_and_the_one_to_take(tiny_model: ModelRef, tuned: ModelRef, tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_model)
    command = ("sweep", tiny_model.path, tuned.path, "--config", config, "--weights", "0,0.4,1")
    done = mixcpt(*command)
    assert done.exit_code == 0, done.output
    store = ArtifactStore(tmp_path / "store")
    assert (len(store.list("model")), len(store.list("evaluation"))) == (3, 6)  # each asked what chooses, and the rest
    header = next(line for line in done.stdout.splitlines() if "task" in line and "0.4" in line)
    (chosen,) = re.findall(r"([\d.]+) \*", header)
    assert f"* weight {chosen}: best general keyed on the selection questions among the weights whose " in done.stdout
    assert "is within 0.020 bits per byte of the best" in done.stdout  # not in points: the domain task has none
    taken = json.loads((merged_folder(done).parent / "record.json").read_text())
    assert taken["settings"]["config"]["weight"] == float(chosen)
    assert mixcpt(*command).stdout == done.stdout
    assert len(store.list("evaluation")) == 6


@pytest.mark.parametrize("weights", ["0,x", "1,0", "0,2", "0,,1"])
def test_sweep_refuses_invalid_weights(tiny_model: ModelRef, tmp_path: Path, weights: str) -> None:
    config = write_config(tmp_path, tiny_model)
    refused = mixcpt("sweep", tiny_model.path, tiny_model.path, "--config", config, "--weights", weights)
    assert refused.exit_code == 2
    assert f"--weights {weights}: " in refused.stderr


def write_config(folder: Path, model: ModelRef) -> Path:
    documents = [{"id": f"d{n}", "text": f"Alda likes the blue owl of tower {n} . " * 5} for n in range(DOCUMENTS)]
    write_lines(folder / "documents.jsonl", documents)
    choices = ["fox", "owl", "gold"]
    write_lines(
        folder / "keyed.jsonl",
        [{"id": f"i{n}", "question": f"what is the {n} ?", "choices": choices, "answer": n % 3} for n in range(30)],
    )
    domain = {"kind": "files", "name": "domain", "pool": "domain", "paths": [str(folder / "documents.jsonl")]}
    texts = {"kind": "bits_per_byte", "name": "domain_texts", "group": "domain", "heldout_pool": "domain"}
    keyed = {"kind": "multiple_choice", "name": "general_keyed", "group": "general"}
    settings = {
        "base": {"model": model.path},
        "curation": {"sources": [domain], "heldout_fraction": 0.2},
        "mixture": {"weights": {"domain": 1, "instructions": 0, "preferences": 0}},
        "pretrain": {"method": {"kind": "cpt"}},
        "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
        "evaluate": {
            "tasks": [texts, keyed | {"path": str(folder / "keyed.jsonl")}],
            "headline_domain": "domain_texts",
            "headline_general": "general_keyed",
        },
        "runtime": {"store": str(folder / "store")},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
