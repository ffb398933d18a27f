"""Model folders that cannot be trained are refused with file and reason, whatever is wrong with them."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixcpt.checks import model_folder
from mixcpt.config import BaseModelConfig
from mixcpt.errors import ModelError
from mixcpt.store.models import ModelRef, load_model, resolve_model
from tests.unit.checks.checked_models import edit, problems, subject, warnings, write_family

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_model: ModelRef, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model.path, tmp_path / "model")


@pytest.fixture
def sharded(folder: Path) -> Path:
    """Model whose weights are in two files with an index."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / WEIGHTS).unlink()
    return folder


def test_sound_folders_have_no_problem(folder: Path, sharded: Path) -> None:
    assert not problems(model_folder.check, subject(sharded))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_floating_type_is_accepted(dtype: torch.dtype, folder: Path) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert not problems(model_folder.check, subject(folder))


@pytest.mark.parametrize("names", [3, 0.5, "LlamaForCausalLM", {"a": 1}, True])
def test_architectures_that_are_no_list_are_refused(names: object, folder: Path) -> None:
    edit(folder / "config.json", architectures=names)
    (problem,) = problems(model_folder.check, subject(folder))
    assert "config.json" in problem
    assert "architectures" in problem


def halve(data: bytes) -> bytes:
    return data[: len(data) // 2]


def only_the_start(data: bytes) -> bytes:
    return data[:5]


def nothing(data: bytes) -> bytes:
    return b""


def git_lfs(data: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 2626168\n"


def page(data: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>404</body></html>" + b" " * 2000


def no_access(data: bytes) -> bytes:
    return b'{"error": "Repository is gated"}'


def pickled(data: bytes) -> bytes:
    return b"PK\x03\x04" + data


def endless_header(data: bytes) -> bytes:
    return struct.pack("<Q", 2**60) + data[8:]


def no_header(data: bytes) -> bytes:
    return struct.pack("<Q", 100) + b"x" * 1000


def more_bytes(data: bytes) -> bytes:
    return data + b"\0" * 64


DAMAGES: dict[Callable[[bytes], bytes], str] = {
    halve: "is cut off: its tensors need",
    only_the_start: "is no complete safetensors file: 5 bytes",
    nothing: "is no complete safetensors file: 0 bytes",
    git_lfs: "is a git-lfs pointer",
    page: "is an HTML or XML page",
    no_access: "is JSON, not weights",
    pickled: "is a zip or PyTorch file",
    endless_header: "with a header of 1152921504606846976 bytes",
    no_header: "has a damaged header",
    more_bytes: "is longer than its header says",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_weights_are_refused_with_file_and_reason(damage: Callable[[bytes], bytes], folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    [problem] = problems(model_folder.check, subject(folder))
    assert problem.startswith(f"base.model: {file} is ") or problem.startswith(f"base.model: {file} has ")
    assert DAMAGES[damage] in problem
    assert "-> download the file again" in problem
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(subject(folder).base or ModelRef("", "", ""))


def test_two_damaged_shards_are_two_problems(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))
    first.write_bytes(halve(first.read_bytes()))
    second.unlink()
    found = problems(model_folder.check, subject(sharded))
    assert [str(file) in problem for file, problem in zip((first, second), found, strict=True)] == [True, True]
    assert "is missing" in found[1]


def test_shard_that_the_index_does_not_describe_is_refused(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))
    shutil.copy(first, second)
    found = " ".join(problems(model_folder.check, subject(sharded)))
    assert "says that model-00002-of-00002.safetensors contains" in found
    assert "is in several files" in found


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": 3}'])
def test_damaged_index_is_refused(content: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(content)
    [problem] = problems(model_folder.check, subject(sharded))
    assert INDEX in problem


def test_index_that_leaves_the_folder_is_refused(sharded: Path) -> None:
    (sharded / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": "../other/x.safetensors"}})
    )
    [problem] = problems(model_folder.check, subject(sharded))
    assert "names a file outside the folder" in problem


def test_shards_without_index_are_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    [problem] = problems(model_folder.check, subject(sharded))
    assert f"has neither {WEIGHTS} nor {INDEX}; it has model-00001" in problem


def test_absent_tensor_is_refused_by_check_and_loading(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    checked = subject(folder)
    [problem] = problems(model_folder.check, checked)
    assert "lack 1 tensors of LlamaForCausalLM, such as model.layers.1.mlp.up_proj.weight" in problem
    with pytest.raises(ModelError, match="lack 1 tensors"):
        load_model(checked.base or ModelRef("", "", ""))


def test_weights_of_other_shapes_than_the_configuration_are_refused(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=48)
    [problem] = problems(model_folder.check, subject(folder))
    assert problem.startswith(f"base.model: the model in {folder} cannot be loaded")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_one_value_that_is_not_finite_is_refused(name: str, value: float, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    [problem] = problems(model_folder.check, subject(folder))
    assert f"not finite (NaN or infinity), or above 1e+10, in 1 tensors, such as {name}" in problem


@pytest.mark.parametrize("place", [0, -1])
def test_value_that_is_not_finite_in_a_sampled_model_is_refused(
    place: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixcpt.checks.weight_files._UNSAMPLED_BYTES", 0)
    monkeypatch.setattr("mixcpt.checks.weight_files._SAMPLED_VALUES", 8)
    assert not problems(model_folder.check, subject(folder))
    weights = load_file(folder / WEIGHTS)
    weights["model.norm.weight"].view(-1)[place] = torch.nan
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    [problem] = problems(model_folder.check, subject(folder))
    assert "not finite (NaN or infinity), or above 1e+10, in 1 tensors" in problem


def test_values_that_were_not_read_in_time_are_a_warning_and_refused_at_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["model.norm.weight"].view(-1)[3] = torch.nan
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    monkeypatch.setattr("mixcpt.checks.weight_files._SECONDS", -1.0)
    assert not problems(model_folder.check, subject(folder))
    [warning] = warnings(model_folder.check, subject(folder))
    assert "base.model: 0.0 of 0.0 GB of the weights" in warning
    with pytest.raises(ModelError, match=f"model.norm.weight in {folder / WEIGHTS} has values that are not finite"):
        load_model(ModelRef("broken", str(folder), ""))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_weights_that_are_no_usual_floats_are_refused(dtype: torch.dtype, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(dtype)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    [problem] = problems(model_folder.check, subject(folder))
    assert "stores model.layers.0.mlp.up_proj.weight as" in problem
    assert "training needs weights in BF16, F16 or F32" in problem


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "mxfp4", "compressed-tensors"])
def test_quantised_models_are_refused_by_their_method(method: str, folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    [problem] = problems(model_folder.check, subject(folder))
    assert f"config.json has quantization_config: the weights are quantised ({method})" in problem


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model_type": "mycustom", "auto_map": {"AutoConfig": "my.Config"}},
            "needs its own Python code, which is never",
        ),
        ({"model_type": "mycustom"}, "model_type mycustom, which transformers"),
        ({"model_type": None}, "has no model_type"),
        ({"model_type": 3}, "has no model_type"),
        ({"model_type": "clip"}, "does not offer as a language model"),
        ({"model_type": "t5"}, "does not offer as a language model"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "is an encoder-decoder model"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "reads text in both directions"),
        ({"hidden_size": "wide"}, "config.json is refused by transformers"),
        ({"num_attention_heads": 5}, "base.model"),
        ({"rope_scaling": 7}, "config.json is refused by transformers"),
    ],
)
def test_configurations_without_a_trainable_class_are_refused(
    changes: dict[str, object], expected: str, folder: Path
) -> None:
    edit(folder / "config.json", **changes)
    [problem] = problems(model_folder.check, subject(folder))
    assert expected in problem
    assert problem.startswith("base.model: ")


def test_custom_code_of_a_known_family_is_not_needed(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoConfig": "my.Config", "AutoModelForCausalLM": "my.Model"})
    assert not problems(model_folder.check, subject(folder))


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "[" * 100_000, b"\xff\xfe\x00"])
def test_configuration_that_is_no_object_is_refused(content: str | bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=r"no readable config.json"):
        resolve_model(BaseModelConfig(model=str(folder)))


def test_adapter_without_model_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    with pytest.raises(ModelError, match="is an adapter"):
        resolve_model(BaseModelConfig(model=str(folder)))


def test_adapter_next_to_a_model_is_refused_because_another_model_would_be_loaded(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    with pytest.raises(ModelError, match="is an adapter"):
        resolve_model(BaseModelConfig(model=str(folder)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "consolidated.00.pth"])
def test_other_weight_formats_are_refused_by_their_name(name: str, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / name)
    with pytest.raises(ModelError, match=rf"has {name} but no .safetensors weights"):
        resolve_model(BaseModelConfig(model=str(folder)))


@pytest.mark.parametrize("model", ["x" * 5000, "~no-such-user/model"])
def test_impossible_paths_are_refused(model: str) -> None:
    with pytest.raises(ModelError, match=r"base\.model: "):
        resolve_model(BaseModelConfig(model=model))


def test_file_in_place_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file\n  -> name the folder of the model"):
        resolve_model(BaseModelConfig(model=str(folder / WEIGHTS)))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 8}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
        ("mixtral", {"num_local_experts": 4}),
    ],
)
def test_families_as_transformers_writes_them_are_accepted(
    family: str, settings: dict[str, int], tiny_model: ModelRef, tmp_path: Path
) -> None:
    folder = write_family(tiny_model, tmp_path / family, family, **settings)
    assert not problems(model_folder.check, subject(folder))
