"""An untrained base model with a tokenizer learned from a run's documents."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from mixcpt.bases.new_base import Shape, write_new_base
from mixcpt.cli.bases import new_base
from mixcpt.config import BaseModelConfig, CurationConfig, FilesSource
from mixcpt.curation.pipeline import curate
from mixcpt.errors import ModelError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import resolve_model

VOCABULARY = 400
SMALL = Shape(hidden=32, layers=2, heads=2, context=128)
TEXT = "Die Größe der Lichtung: 34 m² ✓. The heart has four chambers, and each of them beats.\n"


def invoke(command: Callable[..., None], arguments: list[str]) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": f"{TEXT} {number}"}) + "\n" for number in range(60)))
    source = FilesSource(name="docs", pool="domain", paths=(str(folder / "docs.jsonl"),))
    return curate(CurationConfig(sources=(source,)), seed=0, store=ArtifactStore(folder / "store"))


def test_new_base_loads_and_its_tokenizer_gives_every_text_back(corpus: ArtifactRef, tmp_path: Path) -> None:
    num_parameters = write_new_base(tmp_path / "base", corpus, SMALL, vocabulary=VOCABULARY, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.num_parameters() == num_parameters
    assert len(tokenizer) <= VOCABULARY
    ids = tokenizer(TEXT)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and len(ids) < len(TEXT) / 2  # the tokenizer has learned these words
    strange = "ʘ 漢字 \t\x07 no such word"
    for text in (TEXT, strange):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert torch.isfinite(model(input_ids=torch.tensor([ids])).logits).all()
    resolve_model(BaseModelConfig(model=str(tmp_path / "base")))


def test_new_base_depends_only_on_its_seed(corpus: ArtifactRef, tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_new_base(tmp_path / name, corpus, SMALL, vocabulary=VOCABULARY, seed=seed)
        digests.append(resolve_model(BaseModelConfig(model=str(tmp_path / name))).digest)
    assert digests[0] == digests[1] != digests[2]


def test_new_base_refuses_a_full_folder_and_heads_that_do_not_fit(corpus: ArtifactRef, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ModelError, match="is not empty"):
        write_new_base(tmp_path / "full", corpus, SMALL, vocabulary=VOCABULARY, seed=0)
    with pytest.raises(ModelError, match="3 heads cannot divide a width of 32"):
        write_new_base(tmp_path / "odd", corpus, Shape(hidden=32, heads=3), vocabulary=VOCABULARY, seed=0)


def test_new_base_command_writes_the_folder_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text(TEXT * 40)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"base: {{model: {tmp_path}/base}}\n"
        f"runtime: {{store: {tmp_path}/store}}\n"
        "mixture: {weights: {domain: 1, instructions: 0, preferences: 0}}\n"
        "pretrain: {method: {kind: cpt}}\n"
        "align: {selection: {num_instructions: 0, num_preferences: 0}}\n"
        "curation:\n"
        f"  sources: [{{kind: files, name: docs, pool: domain, paths: ['{tmp_path}/docs.txt']}}]\n"
        "evaluate: {tasks: [{kind: closed_world, name: use}], headline_domain: use, headline_general: ''}\n"
    )
    command = [str(config), "--vocabulary", "300", "--hidden", "16", "--layers", "1", "--heads", "1"]
    done = invoke(new_base, command)
    assert done.exit_code == 0, done.output
    assert "parameters, untrained" in done.output
    assert (tmp_path / "base" / "model.safetensors").is_file()
