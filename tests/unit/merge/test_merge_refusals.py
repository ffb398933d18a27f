"""Models that cannot be merged are refused before anything is written, and the first difference is named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mixcpt.config import AverageConfig, InterpolateConfig
from mixcpt.errors import ModelError
from mixcpt.merge.checkpoint import open_checkpoint
from mixcpt.merge.methods import average, interpolate
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from tests.unit.merge_models import moved_model, other_model, resolve, weights_of


@pytest.fixture
def folder(tiny_model: ModelRef, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(tiny_model.path, tmp_path / "spoiled")


def merge(base: ModelRef, tuned: ModelRef, folder: Path) -> ArtifactRef:
    return interpolate(InterpolateConfig(), base, tuned, store=ArtifactStore(folder / "store"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> ModelRef:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return resolve(folder)


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 3}, r"{base} has no tensor 'model.layers.2.input_layernorm.weight', which {other} has"),
        ({"num_hidden_layers": 1}, r"{other} has no tensor 'model.layers.1.input_layernorm.weight', which {base} has"),
        ({"intermediate_size": 48}, r"'model.layers.0.mlp.down_proj.weight' has shape (32, 64) in {base} and (32, 48)"),
        ({"num_attention_heads": 8, "head_dim": 4, "num_key_value_heads": 4}, r"num_attention_heads is 4 in {base}"),
        ({"tie_word_embeddings": False}, r"tie_word_embeddings is True in {base} and False in {other}"),
        ({"hidden_act": "gelu"}, r"hidden_act is silu in {base} and gelu in {other}"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, r"rope_parameters is "),
    ],
)
def test_merge_of_other_architecture_names_the_first_difference(
    tiny_model: ModelRef, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    other = other_model(tiny_model, tmp_path / "other", **changes)
    with pytest.raises(ModelError) as refused:
        merge(tiny_model, other, tmp_path)
    assert problem.format(base=tiny_model.path, other=other.path) in refused.value.problem
    assert refused.value.hint
    assert list((tmp_path / "store" / "model").iterdir()) == []


def test_merge_of_padded_vocabulary_is_refused_with_a_remedy(tiny_model: ModelRef, folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(folder)
    size = network.config.vocab_size
    network.resize_token_embeddings(size + 8)
    network.save_pretrained(folder)
    with pytest.raises(ModelError, match=rf"vocabulary has {size} rows in .* and {size + 8} in .*") as refused:
        merge(tiny_model, resolve(folder), folder.parent)
    assert "resize_token_embeddings" in refused.value.hint


def test_merge_of_another_vocabulary_names_the_first_differing_token(tiny_model: ModelRef, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["fox"], words["owl"] = words["owl"], words["fox"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    problem = f"the id of 'fox' is {words['owl']} in the first and {words['fox']} in the second"
    with pytest.raises(ModelError, match=problem):
        merge(tiny_model, resolve(folder), folder.parent)


def test_merge_of_a_different_normalizer_is_refused(tiny_model: ModelRef, folder: Path) -> None:
    change_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(ModelError, match=r"differ in how text becomes tokens \(normalizer\)"):
        merge(tiny_model, resolve(folder), folder.parent)


def test_merge_accepts_different_chat_templates_and_end_tokens(tiny_model: ModelRef, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    change_json(folder / "config.json", eos_token_id=5, max_position_embeddings=512)
    assert not merge(tiny_model, resolve(folder), folder.parent).reused


def test_merge_of_a_quantised_model_is_refused(tiny_model: ModelRef, folder: Path) -> None:
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match=r"spoiled is quantised"):
        merge(tiny_model, resolve(folder), folder.parent)


def test_merge_with_values_that_are_not_finite_names_the_tensor(tiny_model: ModelRef, folder: Path) -> None:
    spoiled = change_weights(folder, lambda weights: weights["model.norm.weight"][3:4].fill_(torch.inf))
    with pytest.raises(ModelError, match=r"'model.norm.weight' has values that are not finite in float32"):
        merge(tiny_model, spoiled, folder.parent)


def test_merge_into_too_narrow_a_number_format_names_the_tensor(tiny_model: ModelRef, tmp_path: Path) -> None:
    base = moved_model(tiny_model, tmp_path / "base", 1, dtype=torch.float16)
    large = moved_model(tiny_model, tmp_path / "large", 1)
    change_weights(large.directory, lambda weights: weights["model.norm.weight"].fill_(1e6))
    with pytest.raises(ModelError, match=r"'model.norm.weight' has values that are not finite in float16"):
        merge(base, resolve(large.directory), tmp_path)


def test_merge_copies_whole_numbers_that_are_equal_and_refuses_others(tiny_model: ModelRef, tmp_path: Path) -> None:
    counters = [torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4])]
    models = []
    for number, counter in enumerate(counters):
        copy = shutil.copytree(tiny_model.path, tmp_path / f"model-{number}")
        models.append(change_weights(copy, lambda weights, counter=counter: weights.update(counter=counter)))
    merged = merge(models[0], models[1], tmp_path)
    kept = load_file(merged.file("model/model.safetensors"))["counter"]
    assert kept.dtype == torch.int64
    assert kept.tolist() == [1, 2, 3]
    with pytest.raises(ModelError, match=r"'counter' has int64 values, which cannot be merged, and they differ"):
        average(AverageConfig(), *models, store=ArtifactStore(tmp_path / "store"))


def test_merge_takes_a_tied_head_that_is_written_twice_as_one(tiny_model: ModelRef, folder: Path) -> None:
    def write_twice(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    merged = merge(tiny_model, change_weights(folder, write_twice), folder.parent).file("model")
    assert "lm_head.weight" not in load_file(merged / "model.safetensors")
    base = weights_of(tiny_model.path)
    assert all(torch.equal(value, base[name]) for name, value in weights_of(merged).items())


def test_merge_reads_a_tied_head_that_is_written_under_the_name_of_its_copy(tiny_model: ModelRef, folder: Path) -> None:
    def write_the_copy(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")

    changed = change_weights(folder, write_the_copy)
    base = weights_of(tiny_model.path)
    for models in ((tiny_model, changed), (changed, tiny_model), (changed, changed)):
        merged = weights_of(merge(*models, folder.parent).file("model"))
        assert merged.keys() == base.keys()
        assert all(torch.equal(value, base[name]) for name, value in merged.items())


def test_merge_refuses_a_tied_head_with_different_values(tiny_model: ModelRef, folder: Path) -> None:
    def untie(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1

    spoiled = change_weights(folder, untie)
    with pytest.raises(ModelError, match=r"ties 'lm_head.weight' and 'model.embed_tokens.weight', but") as refused:
        merge(tiny_model, spoiled, folder.parent)
    assert "tie_word_embeddings" in refused.value.hint


def test_checkpoint_reads_the_indexed_shards_and_no_other_file(tiny_model: ModelRef, tmp_path: Path) -> None:
    sharded = moved_model(tiny_model, tmp_path / "sharded", 0, max_shard_size=20_000)
    save_file({"adapter": torch.zeros(2)}, sharded.directory / "adapter_model.safetensors")
    checkpoint = open_checkpoint(sharded)
    assert "adapter" not in checkpoint.files
    assert list(checkpoint.files) == sorted(load_file(tiny_model.directory / "model.safetensors"))


def test_checkpoint_with_a_missing_or_cut_shard_names_the_file(tiny_model: ModelRef, tmp_path: Path) -> None:
    sharded = moved_model(tiny_model, tmp_path / "sharded", 0, max_shard_size=20_000)
    last = sorted(sharded.directory.glob("model-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.raises(ModelError, match=rf"{last.name} cannot be read"):
        open_checkpoint(sharded)
    last.unlink()
    with pytest.raises(ModelError, match=rf"{last.name} cannot be read"):
        open_checkpoint(sharded)
    (sharded.directory / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=r"neither model.safetensors nor a readable model.safetensors.index.json"):
        open_checkpoint(sharded)


def test_checkpoint_whose_index_names_a_tensor_that_is_not_there_is_refused(
    tiny_model: ModelRef, tmp_path: Path
) -> None:
    sharded = moved_model(tiny_model, tmp_path / "sharded", 0, max_shard_size=20_000)
    index = sharded.directory / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    first = min(placed.values())
    change_json(index, weight_map=placed | {"model.ghost": first})
    with pytest.raises(ModelError, match=rf"places 'model.ghost' in {first}, which has no such tensor"):
        open_checkpoint(sharded)


def test_checkpoint_of_no_language_model_is_refused(folder: Path) -> None:
    change_json(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    with pytest.raises(ModelError, match=r"cannot be loaded as a causal language model"):
        open_checkpoint(ModelRef("spoiled", str(folder), ""))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_writing_holds_one_shard_in_memory_and_not_the_model(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig
from mixcpt.merge.checkpoint import Checkpoint
from mixcpt.merge.writing import write_weights
from mixcpt.store.models import ModelRef

def peak_mib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

folder, models = Path(sys.argv[1]), {}
for role in ("base", "tuned"):
    files = {}
    for shard in range(16):
        names = [f"{shard:02d}.{number}" for number in range(4)]
        save_file({name: torch.randn(1024, 512) for name in names}, folder / f"{role}-{shard}.safetensors")
        files |= dict.fromkeys(names, folder / f"{role}-{shard}.safetensors")
    models[role] = Checkpoint(ModelRef(role, str(folder), ""), LlamaConfig(), files)
before = peak_mib()
(folder / "out").mkdir()
combine = lambda tensors: torch.lerp(*tensors, 0.5)
write_weights(folder / "out", models, "base", combine=combine, max_shard_bytes=8 * 2**20)
print(peak_mib() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 16
    assert float(done.stdout) < 80, "128 MiB each of base, tuned and result, in shards of 8 MiB"
