"""Merged tensors equal plain arithmetic, load like any model, and are computed once."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixcpt.config import AverageConfig, InterpolateConfig, ResidualConfig
from mixcpt.errors import ModelError
from mixcpt.merge.methods import average, interpolate, residual
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from tests.unit.merge_models import moved_model, other_model, resolve, weights_of

SHARD_BYTES = 20_000
"""The tiny model has 64 KiB of weights, its largest tensor 8 KiB."""


@pytest.fixture(scope="module")
def tuned(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return moved_model(tiny_model, tmp_path_factory.mktemp("models") / "tuned", 1)


@pytest.fixture(scope="module")
def third(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return moved_model(tiny_model, tmp_path_factory.mktemp("models") / "third", 2)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def merged_weights(merged: ArtifactRef) -> dict[str, torch.Tensor]:
    return weights_of(merged.file("model"))


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To the last bits of fp32; `expected` is in float64."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].double(), value, rtol=3e-7, atol=3e-8)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.7])
def test_interpolate_equals_plain_arithmetic(
    tiny_model: ModelRef, tuned: ModelRef, store: ArtifactStore, weight: float
) -> None:
    merged = merged_weights(interpolate(InterpolateConfig(weight=weight), tiny_model, tuned, store=store))
    base, end = weights_of(tiny_model.path), weights_of(tuned.path)
    assert_close(merged, {name: (1 - weight) * base[name].double() + weight * end[name].double() for name in base})


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_interpolate_ends_equal_the_tensors_of_base_and_tuned(
    tiny_model: ModelRef, tuned: ModelRef, store: ArtifactStore, weight: float
) -> None:
    merged = interpolate(InterpolateConfig(weight=weight), tiny_model, tuned, store=store)
    end = weights_of(tuned.path if weight else tiny_model.path)
    assert all(torch.equal(value, end[name]) for name, value in merged_weights(merged).items())
    near, far = ("tuned", "base") if weight else ("base", "tuned")
    metrics = merged.record["metrics"]
    assert metrics["change_norm"][near] == 0
    assert metrics["change_norm"][far] > 0


def test_residual_equals_plain_arithmetic(
    tiny_model: ModelRef, tuned: ModelRef, third: ModelRef, store: ArtifactStore
) -> None:
    merged = merged_weights(residual(ResidualConfig(scale=0.8), tuned, third, tiny_model, store=store))
    adapted, instruct, base = (weights_of(model.path) for model in (tuned, third, tiny_model))
    assert_close(
        merged, {name: adapted[name].double() + 0.8 * (instruct[name].double() - base[name].double()) for name in base}
    )


def test_residual_of_zero_leaves_the_tensors_unchanged(
    tiny_model: ModelRef, tuned: ModelRef, third: ModelRef, store: ArtifactStore
) -> None:
    adapted = weights_of(tuned.path)
    for scale, instruct in ((0.0, third), (1.0, tiny_model)):
        merged = residual(ResidualConfig(scale=scale), tuned, instruct, tiny_model, store=store)
        assert all(torch.equal(value, adapted[name]) for name, value in merged_weights(merged).items())


def test_average_equals_plain_mean(
    tiny_model: ModelRef, tuned: ModelRef, third: ModelRef, store: ArtifactStore
) -> None:
    models = (tiny_model, tuned, third)
    merged = merged_weights(average(AverageConfig(), *models, store=store))
    tensors = [weights_of(model.path) for model in models]
    mean = {name: torch.stack([each[name].double() for each in tensors]).mean(0) for name in merged}
    assert_close(merged, mean)


def test_average_of_one_model_is_refused(tiny_model: ModelRef, store: ArtifactStore) -> None:
    with pytest.raises(ModelError, match=r"needs at least two models, but there is 1"):
        average(AverageConfig(), tiny_model, store=store)


def test_metrics_are_norms_over_all_weights_with_tied_ones_counted_once(
    tiny_model: ModelRef, tuned: ModelRef, store: ArtifactStore
) -> None:
    merged = interpolate(InterpolateConfig(weight=0.25), tiny_model, tuned, store=store)
    metrics = merged.record["metrics"]
    network = AutoModelForCausalLM.from_pretrained(tiny_model.path)
    base, end = weights_of(tiny_model.path), weights_of(tuned.path)
    names = [name for name, _ in network.named_parameters()]  # a tied weight has one name here
    distance = math.sqrt(sum(float((end[name].double() - base[name].double()).square().sum()) for name in names))
    norm = math.sqrt(sum(float(base[name].double().square().sum()) for name in names))
    assert (metrics["method"], metrics["num_parameters"]) == ("interpolate", network.num_parameters())
    assert metrics["change_norm"]["base"] == pytest.approx(0.25 * distance, rel=1e-5)
    assert metrics["change_norm"]["tuned"] == pytest.approx(0.75 * distance, rel=1e-5)
    assert metrics["relative_change"]["base"] == pytest.approx(0.25 * distance / norm, rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sharded_models_merge_into_shards_that_load_and_answer_as_computed_by_hand(
    tiny_model: ModelRef, tmp_path: Path, store: ArtifactStore, tied: bool, dtype: torch.dtype
) -> None:
    start = other_model(tiny_model, tmp_path / "start", tie_word_embeddings=tied)
    base = moved_model(start, tmp_path / "base", 3, dtype=dtype, max_shard_size=SHARD_BYTES)
    end = moved_model(start, tmp_path / "end", 4, max_shard_size=SHARD_BYTES)
    assert len(list(end.directory.glob("*.safetensors"))) > 2
    config = InterpolateConfig(weight=0.3, max_shard_bytes=SHARD_BYTES)
    folder = interpolate(config, base, end, store=store).file("model")

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    sizes = {name: sum(tensor.nbytes for tensor in tensors.values()) for name, tensors in held.items()}
    weight_map: dict[str, str] = {}
    for file, tensors in held.items():
        weight_map |= dict.fromkeys(tensors, file)
    assert index["weight_map"] == weight_map
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert len(held) > 1
    assert all(size <= SHARD_BYTES for size in sizes.values())
    assert ("lm_head.weight" in index["weight_map"]) is not tied

    network = AutoModelForCausalLM.from_pretrained(folder)
    assert network.dtype == dtype
    assert (network.get_input_embeddings().weight is network.get_output_embeddings().weight) is tied
    by_hand = AutoModelForCausalLM.from_pretrained(base.path)
    low, high = weights_of(base.path), weights_of(end.path)
    by_hand.load_state_dict({name: (0.7 * low[name].float() + 0.3 * high[name]).to(dtype) for name in low})
    input_ids = torch.arange(40)[None]
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(network(input_ids).logits, by_hand(input_ids).logits, rtol=tolerance, atol=tolerance)


def test_model_in_bf16_is_the_fp32_result_rounded_once(
    tiny_model: ModelRef, tuned: ModelRef, tmp_path: Path, store: ArtifactStore
) -> None:
    base = moved_model(tiny_model, tmp_path / "base", 5, dtype=torch.bfloat16)
    folder = interpolate(InterpolateConfig(weight=0.5), base, tuned, store=store).file("model")
    merged, low, high = (load_file(path / "model.safetensors") for path in (folder, base.directory, tuned.directory))
    for name, value in merged.items():
        exact = (low[name].double() + high[name].double()) / 2
        assert value.dtype == torch.bfloat16
        # half a unit in the last of 8 bits: arithmetic in bf16 would miss it wherever base and tuned cancel
        torch.testing.assert_close(value.double(), exact, rtol=2**-8 * 1.001, atol=1e-9)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_model_has_files_of_the_named_model_and_no_card_of_it(
    tiny_model: ModelRef, tuned: ModelRef, third: ModelRef, tmp_path: Path, store: ArtifactStore
) -> None:
    chat = moved_model(tiny_model, tmp_path / "chat", 6)
    (chat.directory / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    (chat.directory / "additional_chat_templates").mkdir()
    (chat.directory / "additional_chat_templates" / "tools.jinja").write_text("tools")
    (chat.directory / "recipe.json").write_text("{}")
    (chat.directory / "README.md").write_text("a card")
    chat = resolve(chat.directory)
    own = (tiny_model.directory / "chat_template.jinja").read_text()
    made = {
        "tuned": interpolate(InterpolateConfig(), tiny_model, chat, store=store),
        "base": interpolate(InterpolateConfig(files_of="base"), tiny_model, chat, store=store),
        "instruct": residual(ResidualConfig(), tuned, chat, tiny_model, store=store),
        "first": average(AverageConfig(), third, chat, store=store),
    }
    templates = {role: ref.file("model/chat_template.jinja").read_text() for role, ref in made.items()}
    theirs = "{{ messages[0]['content'] }}!"
    assert templates == {"tuned": theirs, "base": own, "instruct": theirs, "first": own}
    folder = made["tuned"].file("model")
    assert (folder / "additional_chat_templates" / "tools.jinja").read_text() == "tools"
    assert not (folder / "recipe.json").exists()
    assert not (folder / "README.md").exists()
    tokens = [AutoTokenizer.from_pretrained(path).encode("Alda likes the owl .") for path in (folder, chat.path)]
    assert tokens[0] == tokens[1]
    assert resolve(folder).max_tokens == 256
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_merge_of_equal_inputs_is_reused_for_other_paths_and_names(
    tiny_model: ModelRef, tuned: ModelRef, store: ArtifactStore
) -> None:
    first = interpolate(InterpolateConfig(), tiny_model, tuned, store=store, name="half")
    again = interpolate(
        InterpolateConfig(), ModelRef("moved", "/nowhere", tiny_model.digest), tuned, store=store, name="other"
    )
    assert (first.reused, again.reused) == (False, True)
    assert again == first
    assert again.record["lineage"]["name"] == "half"
    assert again.record["inputs"] == {"base": tiny_model.digest, "tuned": tuned.digest}


def test_merge_runs_again_if_the_result_could_change(
    tiny_model: ModelRef, tuned: ModelRef, third: ModelRef, store: ArtifactStore
) -> None:
    made = [
        interpolate(InterpolateConfig(weight=0.5), tiny_model, tuned, store=store),
        interpolate(InterpolateConfig(weight=0.6), tiny_model, tuned, store=store),
        interpolate(InterpolateConfig(weight=0.5), tuned, tiny_model, store=store),
        interpolate(InterpolateConfig(weight=0.5), tiny_model, third, store=store),
        interpolate(InterpolateConfig(weight=0.5, files_of="base"), tiny_model, tuned, store=store),
        average(AverageConfig(), tiny_model, tuned, store=store),
        average(AverageConfig(), tuned, tiny_model, store=store),
        residual(ResidualConfig(scale=1), tuned, third, tiny_model, store=store),
        residual(ResidualConfig(scale=2), tuned, third, tiny_model, store=store),
    ]
    assert len({ref.fingerprint for ref in made}) == len(made)


def test_merged_model_can_be_merged_again(tiny_model: ModelRef, tuned: ModelRef, store: ArtifactStore) -> None:
    half = interpolate(InterpolateConfig(weight=0.5), tiny_model, tuned, store=store)
    quarter = interpolate(InterpolateConfig(weight=0.5), tiny_model, ModelRef.from_artifact(half, "half"), store=store)
    directly = interpolate(InterpolateConfig(weight=0.25), tiny_model, tuned, store=store)
    expected = {name: value.double() for name, value in merged_weights(directly).items()}
    assert_close(merged_weights(quarter), expected)
