"""Bad input on the command line: a clear message, a non-zero exit code, and no half-written files."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixcpt.store.models import ModelRef

Config = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path, tiny_model: ModelRef) -> Config:
    """Return a small valid run; every test breaks one part of it."""
    documents = tmp_path / "documents.jsonl"
    texts = [
        f"the fox of Alda likes the blue tower . the river likes Alda and number {number} ." for number in range(40)
    ]
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    general = tmp_path / "general.txt"
    general.write_text("the tower of Alda is blue . the fox likes the river .\n")
    model = tmp_path / "model"
    shutil.copytree(tiny_model.path, model)
    return {
        "name": "broken",
        "base": {"model": str(model)},
        "curation": {
            "sources": [{"kind": "files", "name": "notes", "pool": "domain", "paths": [str(documents)]}],
            "max_lost_fraction": 0.5,  # the tiny tokenizer has few words
        },
        "mixture": {"weights": {"instructions": 0, "preferences": 0}, "total_tokens": 500, "row_tokens": 32},
        "pretrain": {"method": {"kind": "cpt"}},
        "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
        "evaluate": {
            "tasks": [
                {"kind": "bits_per_byte", "name": "notes_bits", "group": "domain", "heldout_pool": "domain"},
                {"kind": "bits_per_byte", "name": "general_text", "group": "general", "path": str(general)},
            ],
            "headline_domain": "notes_bits",
            "headline_general": "general_text",
        },
        "runtime": {"store": str(tmp_path / "store")},
    }


def mixcpt(command: str, config: Config, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mixcpt", command, str(path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )


def missing_file(config: Config) -> None:
    config["curation"]["sources"][0]["paths"] = ["/nowhere/notes.jsonl"]


def unknown_key(config: Config) -> None:
    config["pretrain"]["speed"] = "fast"


def wrong_type(config: Config) -> None:
    config["mixture"]["total_tokens"] = "plenty"


def negative_weight(config: Config) -> None:
    config["mixture"]["weights"]["domain"] = -1


def no_tokenizer(config: Config) -> None:
    (Path(config["base"]["model"]) / "tokenizer.json").unlink()


def other_vocabulary(config: Config) -> None:
    path = Path(config["base"]["model"]) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 7}))


def no_chat_template(config: Config) -> None:
    folder = Path(config["base"]["model"])
    (folder / "chat_template.jinja").unlink()
    pairs = folder.parent / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "who lives ?", "response": "Alda"}) + "\n")
    source = {"kind": "files", "name": "pairs", "pool": "instructions", "paths": [str(pairs)]}
    config["curation"]["sources"].append(source)
    config["align"]["selection"]["num_instructions"] = 1


def no_safetensors(config: Config) -> None:
    weights = Path(config["base"]["model"]) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (missing_file, ["/nowhere/notes.jsonl", "curation.sources"]),
        (unknown_key, ["pretrain.speed: unknown key"]),
        (wrong_type, ["mixture.total_tokens", "'plenty'"]),
        (negative_weight, ["mixture.weights.domain", "-1"]),
        (no_tokenizer, ["no tokenizer"]),
        (other_vocabulary, ["do not match", "vocabulary has 7"]),
        (no_chat_template, ["no chat template", "base.chat_template"]),
        (no_safetensors, [".safetensors"]),
    ],
)
def test_run_refuses_bad_input_before_any_work(
    config: Config, tmp_path: Path, damage: Callable[[Config], None], expected: list[str]
) -> None:
    damage(config)
    done = mixcpt("run", config, tmp_path)
    assert done.returncode == 2
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_validate_accepts_the_unbroken_run(config: Config, tmp_path: Path) -> None:
    done = mixcpt("validate", config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stdout


def test_validate_reports_problems_of_several_stages_at_once(config: Config, tmp_path: Path) -> None:
    missing_file(config)
    no_tokenizer(config)
    config["evaluate"]["tasks"].append(
        {"kind": "multiple_choice", "name": "quiz", "group": "general", "path": "/nowhere/quiz.jsonl"}
    )
    done = mixcpt("validate", config, tmp_path)
    assert done.returncode == 2
    for text in ("3 problems", "/nowhere/notes.jsonl", "/nowhere/quiz.jsonl", "no tokenizer"):
        assert text in done.stderr


@pytest.mark.e2e
def test_run_of_an_empty_corpus_fails_clearly_and_publishes_nothing(config: Config, tmp_path: Path) -> None:
    documents = Path(config["curation"]["sources"][0]["paths"][0])
    documents.write_text('{"text": broken\n{"body": "no text"}\n')
    done = mixcpt("run", config, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "2 " in done.stderr
    assert "is missing; the record has: body" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "store").glob("*/*/COMPLETE")) == []
    assert list((tmp_path / "store").glob("*/.draft-*")) == []


@pytest.mark.e2e
@pytest.mark.long
def test_run_skips_and_counts_broken_lines(config: Config, tmp_path: Path, readable_model: ModelRef) -> None:
    config["base"]["model"] = readable_model.path
    documents = Path(config["curation"]["sources"][0]["paths"][0])
    documents.write_text('{"text": broken\n[1]\n' + documents.read_text())
    done = mixcpt("run", config, tmp_path)
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "store" / "corpus").glob("*/report.json")
    assert json.loads(report.read_text())["sources"]["notes"]["quarantined"] == 2
    assert len(list((tmp_path / "store" / "run").glob("*/COMPLETE"))) == 1
