"""Accepted model folders, and the messages for refused ones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mixcpt.config import BaseModelConfig
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.models import (
    ModelRef,
    load_model,
    load_tokenizer,
    read_chat_template,
    require_chat_template,
    resolve_model,
)


@pytest.fixture
def folder(tiny_model: ModelRef, tmp_path: Path) -> Path:
    """Copy of the tiny model that a test may change."""
    return shutil.copytree(tiny_model.path, tmp_path / "model")


def resolve(folder: Path) -> ModelRef:
    return resolve_model(BaseModelConfig(model=str(folder)))


def widen_vocabulary(folder: Path, vocab_size: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(vocab_size)
    model.save_pretrained(folder)


def test_resolve_model_folder_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer .*\n  -> save the tokenizer"):
        resolve(folder)


@pytest.mark.parametrize("content", ["{ this is no JSON", '{"version": "1.0", "model": {"type": "Guess"}}', "{}"])
def test_resolve_model_broken_tokenizer_is_refused(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be loaded"):
        resolve(folder)


def test_resolve_model_tokenizer_with_ids_beyond_the_model_is_refused(folder: Path) -> None:
    tokenizer = load_tokenizer(ModelRef("model", str(folder), ""))
    tokenizer.add_tokens(["Zora"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ModelError,
        match=rf"do not match: token ids go up to {len(tokenizer) - 1}, the vocabulary has {len(tokenizer) - 1}",
    ):
        resolve(folder)


def test_resolve_model_tokenizer_of_a_much_smaller_model_is_refused(folder: Path) -> None:
    widen_vocabulary(folder, 512)
    with pytest.raises(ModelError, match=r"do not match: .* the vocabulary has 512"):
        resolve(folder)


def test_resolve_model_padded_vocabulary_is_accepted(folder: Path) -> None:
    widen_vocabulary(folder, 56)
    assert resolve(folder).path == str(folder)


def test_resolve_model_pickled_weights_only_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match=r"no .safetensors weights\n  -> convert the model to safetensors"):
        resolve(folder)


@pytest.mark.parametrize("content", [None, "{"])
def test_resolve_model_no_readable_configuration_is_refused(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content:
        (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"no readable config.json"):
        resolve(folder)


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "~/nowhere-at-all"])
def test_resolve_model_missing_folder_is_not_looked_for_on_the_hub(path: str) -> None:
    with pytest.raises(ModelError, match=f"there is no folder {path}"):
        resolve_model(BaseModelConfig(model=path))


@pytest.mark.parametrize("name", ["nobody/no-such-model", "not a valid id"])
def test_resolve_model_hub_id_without_network_fails_quickly(name: str, tmp_path: Path) -> None:
    code = (
        "import sys, mixcpt.config as c, mixcpt.store.models as m; "
        "m.resolve_model(c.BaseModelConfig(model=sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, name],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    assert f"ModelError: base.model: '{name}' is not a local folder, and its download failed" in result.stderr
    assert "check the spelling, the network" in result.stderr


def test_model_digest_stays_when_the_folder_moves_or_gets_a_note(folder: Path, tiny_model: ModelRef) -> None:
    before = resolve(folder)
    (folder / "README.md").write_text("a note")
    moved = resolve(folder.rename(folder.parent / "elsewhere"))
    assert before.digest == moved.digest == tiny_model.digest
    assert moved.name == "elsewhere"


def test_model_digest_changes_with_weights_tokenizer_and_configuration(folder: Path) -> None:
    digests = [resolve(folder).digest]
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    digests.append(resolve(folder).digest)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    digests.append(resolve(folder).digest)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    digests.append(resolve(folder).digest)
    assert len(set(digests)) == 4


def test_require_chat_template_accepts_the_models_own_or_a_given_one(folder: Path) -> None:
    require_chat_template(resolve(folder), "")
    (folder / "chat_template.jinja").unlink()
    require_chat_template(resolve(folder), "plain")
    with pytest.raises(ModelError, match=r"no chat template.*\n  -> set base.chat_template to plain, chatml or"):
        require_chat_template(resolve(folder), "")


def test_read_chat_template_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ messages[0]['content'] }}")
    assert read_chat_template(str(path)) == "{{ messages[0]['content'] }}"
    assert "<|im_start|>" in read_chat_template("chatml")
    assert "Assistant:" in read_chat_template("plain")
    with pytest.raises(ConfigError, match=r"'fancy' is neither a template of mixcpt \(chatml, plain\) nor"):
        read_chat_template("fancy")


def test_load_tokenizer_without_padding_pads_with_end_of_text(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"pad_token": "<pad>"', '"pad_token": null'))
    assert load_tokenizer(resolve(folder)).pad_token == "</s>"


def test_load_model_is_ready_for_packed_rows(tiny_model: ModelRef) -> None:
    model = load_model(tiny_model)
    assert not model.training
    assert model.config.use_cache is False
    assert next(model.parameters()).dtype == torch.float32
