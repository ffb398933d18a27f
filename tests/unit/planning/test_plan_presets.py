"""Presets fit the devices that they name, with alignment. Their models are folders with only a configuration."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig

from mixcpt.config import load_config
from mixcpt.planning import stage
from mixcpt.planning.devices import named_device
from mixcpt.planning.load import count_load
from mixcpt.records.plan import Plan
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import CLOSED_WORLD_PATH, ModelRef

CONFIGS = Path(__file__).parents[3] / "deployments" / "configs"
LLAMA = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
"""Shape of Llama 3.1 8B."""
SMALL = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""Shape of SmolLM2 135M."""


def shaped(folder: Path, shape: dict[str, int]) -> ModelRef:
    """Write a model without weights, with the tokenizer of the closed world, and return it."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLOSED_WORLD_PATH / name, folder / name)
    AutoConfig.for_model("llama", **shape).save_pretrained(folder)
    return ModelRef(folder.name, str(folder), "0" * 64)


def planned(preset: str, folder: Path, shape: dict[str, int], device: str, *overrides: str) -> Plan:
    """Return the plan of a preset with documents of the closed world in place of its own."""
    pools = {"documents": "domain", "dolly": "instructions", "pairs": "preferences"}
    sources = [{"kind": "closed_world", "name": name, "pool": pool} for name, pool in pools.items()]
    own = (f"curation.sources={json.dumps(sources)}", f"runtime.store={json.dumps(str(folder / 'store'))}")
    config = load_config(CONFIGS / f"{preset}.yaml", [*own, *overrides])
    load = count_load(config, shaped(folder / "model", shape), ArtifactStore(folder / "store"))
    return stage.estimated_plan(load, named_device(device, config.runtime, config.pretrain.precision))


@pytest.mark.parametrize(
    ("preset", "device"),
    [("one-gpu-lora", "h100"), ("one-gpu-lora", "a100-80"), ("eight-gpus", "h100"), ("several-nodes", "a100-80")],
)
def test_a_preset_of_eight_billion_parameters_fits_with_alignment(tmp_path: Path, preset: str, device: str) -> None:
    plan = planned(preset, tmp_path, LLAMA, device)
    assert {"selection", "sft", "dpo"} <= plan.by_stage.keys()
    assert [memory.stage for memory in plan.memory] == ["pretrained", "selection", "sft", "dpo"]
    assert not [warning for warning in plan.warnings if "needs" in warning and "per device" in warning]


def test_full_alignment_of_eight_billion_parameters_on_one_device_does_not_fit_and_names_the_remedy(
    tmp_path: Path,
) -> None:
    full = ("align.sft.scope.kind=full", "align.dpo.scope.kind=full")
    plan = planned("one-gpu-lora", tmp_path, LLAMA, "h100", *full)
    for name in ("sft", "dpo"):
        (warning,) = [text for text in plan.warnings if text.startswith(f"{name}:")]
        assert f"set align.{name}.scope to lora" in warning


def test_the_preset_of_a_laptop_fits_in_sixteen_gigabytes_with_alignment(tmp_path: Path) -> None:
    plan = planned("laptop-cpu", tmp_path, SMALL, "t4")  # 15 GiB
    assert "sft" in plan.by_stage
    assert all(memory.total < 14 * 2**30 for memory in plan.memory)
