"""An exported folder gives the same logits, has all files that other tools read, and is never half-written."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixcpt.errors import ConfigError, ModelError
from mixcpt.serving.export import export_model, probe, require_same
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef, load_model, resolve_model
from tests.unit.merge_models import moved_model, weights_of
from tests.unit.served_models import CLOSED_WORLD, copied

SHARED_DTYPES = {"auto": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def source() -> ModelRef:
    return resolve_model(CLOSED_WORLD)


def export(model: ModelRef, folder: Path, dtype: str = "auto", max_shard_size: str = "5GB") -> ModelRef:
    return export_model(model, folder, card="# Card\n", dtype=dtype, max_shard_size=max_shard_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", SHARED_DTYPES)
def test_exported_model_has_the_weights_tokens_and_prompts_of_its_source(
    source: ModelRef, tmp_path: Path, dtype: str
) -> None:
    exported = export(source, tmp_path / "out", dtype)
    before, after = weights_of(source.path), weights_of(exported.path)
    assert {name: tensor.dtype for name, tensor in after.items()} == dict.fromkeys(before, SHARED_DTYPES[dtype])
    assert all(torch.equal(after[name], before[name].to(SHARED_DTYPES[dtype])) for name in before)
    source_tokenizer, copy = (AutoTokenizer.from_pretrained(place) for place in (source.path, exported.path))
    turns = [{"role": "user", "content": "what is it ?"}]
    rendered = source_tokenizer.apply_chat_template(turns, tokenize=False)
    assert copy.apply_chat_template(turns, tokenize=False) == rendered
    assert copy("Flozur is a clan .")["input_ids"] == source_tokenizer("Flozur is a clan .")["input_ids"]


def test_exported_folder_has_what_servers_and_converters_read(source: ModelRef, tmp_path: Path) -> None:
    folder = export(source, tmp_path / "out", "bfloat16").directory
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["dtype"], config["use_cache"]) == (["LlamaForCausalLM"], "bfloat16", True)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert (folder / "README.md").read_text() == "# Card\n"
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # a user who can read one can read all
    text = "".join(path.read_text() for path in folder.glob("*.json"))
    assert str(CLOSED_WORLD_PATH) not in text and str(tmp_path) not in text


def test_export_in_several_files_loads_as_one_model(source: ModelRef, tmp_path: Path) -> None:
    exported = export(source, tmp_path / "out", max_shard_size="2MB")
    assert len(list(exported.directory.glob("model-*.safetensors"))) > 2
    before, after = weights_of(source.path), weights_of(exported.path)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_export_names_the_token_that_ends_an_answer(source: ModelRef, tmp_path: Path) -> None:
    template = (CLOSED_WORLD_PATH / "chat_template.jinja").read_text().replace("{{ eos_token }}", "<|user|>")
    exported = export(copied(source, tmp_path / "closing", template), tmp_path / "out")
    user = AutoTokenizer.from_pretrained(exported.path).convert_tokens_to_ids("<|user|>")
    model = AutoModelForCausalLM.from_pretrained(exported.path)
    assert sorted(model.generation_config.eos_token_id) == sorted([2, user])


def test_export_without_a_fast_tokenizer_file_gets_one(tiny_model: ModelRef, tmp_path: Path) -> None:
    assert (export(tiny_model, tmp_path / "out").directory / "tokenizer.json").is_file()


def test_folder_with_other_logits_is_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    moved = moved_model(tiny_model, tmp_path / "moved", 1)
    expected = probe(load_model(tiny_model), tiny_model)
    require_same(tiny_model, tiny_model.directory, expected)
    with pytest.raises(ModelError, match="do not give the logits"):
        require_same(tiny_model, moved.directory, expected)
    other = copied(tiny_model, tmp_path / "other", "{{ messages }}")
    with pytest.raises(ModelError, match="the exported chat template differs from"):
        require_same(tiny_model, other.directory, expected)


def test_export_that_fails_leaves_nothing_and_touches_no_other_folder(tiny_model: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--max-shard-size 'many' is not"):
        export(tiny_model, tmp_path / "out", max_shard_size="many")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        export(tiny_model, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert export(tiny_model, tmp_path / "empty").digest == export(tiny_model, tmp_path / "new").digest
