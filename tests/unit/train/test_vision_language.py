"""Vision-language checkpoints: the text part is trained, everything else is kept and published with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from mixcpt.checks import model_folder, packing
from mixcpt.config import BaseModelConfig, CptMethod, FullScopeConfig, LoraScopeConfig, LssdMethod, OptimizerConfig
from mixcpt.serving.chat import load_chat
from mixcpt.serving.export import export_model
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, auto_class, load_model, num_embeddings, resolve_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.pretrain import pretrain
from tests.unit.align.test_align_finetune import DPO, SFT, run_dpo, run_sft
from tests.unit.checks.checked_models import SIZES, problems, subject, warnings
from tests.unit.train.test_train_pretrain import CONFIG, mixture

VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
SCOPES = {"full": FullScopeConfig(), "lora": LoraScopeConfig(rank=4)}
FAMILIES = ("gemma3", "qwen2_vl", "llava")


def config_of(family: str, vocab_size: int) -> Any:
    """Return the settings of a tiny model, whose last tokens stand for images."""
    text = SIZES | {"vocab_size": vocab_size, "tie_word_embeddings": False}
    last = vocab_size - 1
    if family == "gemma3":
        tokens = {"image_token_index": last, "boi_token_index": last - 1, "eoi_token_index": last - 2}
        text |= {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
        return AutoConfig.for_model(family, text_config=text, vision_config=VISION, mm_tokens_per_image=4, **tokens)
    if family == "qwen2_vl":
        tokens = {"image_token_id": last, "video_token_id": last - 1}
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
        vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14}
        return AutoConfig.for_model(family, text_config=text, vision_config=vision, **tokens)
    text["model_type"] = "llama"
    vision = VISION | {"model_type": "clip_vision_model", "projection_dim": 32}
    return AutoConfig.for_model(family, text_config=text, vision_config=vision, image_token_index=last)


def checkpoint(family: str, tiny: ModelRef, folder: Path) -> ModelRef:
    """Write a random checkpoint with the tokenizer of the tiny model and files of a processor."""
    shutil.copytree(tiny.path, folder)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config_of(family, num_embeddings(tiny.directory) + 4))
    model.save_pretrained(folder)
    for name in PROCESSOR_FILES:
        (folder / name).write_text(json.dumps({"file": name}))
    return resolve_model(BaseModelConfig(model=str(folder)))


@pytest.fixture(scope="module")
def bases(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    folder = tmp_path_factory.mktemp("vision")
    return {family: checkpoint(family, tiny_model, folder / family) for family in FAMILIES}


def trained(base: ModelRef, store: ArtifactStore, scope: str) -> ArtifactRef:
    method = LssdMethod() if scope == "lora" else CptMethod()
    optimizer = OptimizerConfig(learning_rate=1e-2)
    config = CONFIG.model_copy(update={"scope": SCOPES[scope], "method": method, "optimizer": optimizer})
    return pretrain(config, mixture(store), base, seed=0, store=store, tracker=NullTracker())


def is_vision(name: str) -> bool:
    return any(part in name for part in ("vision", "visual", "projector"))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_passes_the_checks(bases: dict[str, ModelRef], family: str) -> None:
    checked = subject(bases[family].directory, row_tokens=24)
    assert problems(model_folder.check, checked) == problems(packing.check, checked) == []
    assert not any("scope" in warning for warning in warnings(packing.check, checked))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_text_part_is_trained_and_the_model_is_published_whole(
    bases: dict[str, ModelRef], tmp_path: Path, family: str, scope: str
) -> None:
    base = bases[family]
    published = ModelRef.from_artifact(trained(base, ArtifactStore(tmp_path), scope), "adapted")
    before, after = (load_file(model.directory / "model.safetensors") for model in (base, published))
    assert set(before) == set(after)
    vision = {name for name in before if is_vision(name)}
    assert vision and all(torch.equal(before[name], after[name]) for name in vision)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {name for name in before if name not in vision and name.endswith("_proj.weight")}
    assert layers <= changed
    reloaded, report = AutoModelForImageTextToText.from_pretrained(published.path, output_loading_info=True)
    assert not report["missing_keys"]
    assert json.loads((published.directory / "config.json").read_text())["architectures"] == [type(reloaded).__name__]
    for name in PROCESSOR_FILES:
        assert (published.directory / name).read_bytes() == (base.directory / name).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_is_exported_whole_and_answers(bases: dict[str, ModelRef], tmp_path: Path, family: str) -> None:
    exported = export_model(bases[family], tmp_path / "out", card="A card.", dtype="auto", max_shard_size="5GB")
    before, after = (load_file(model.directory / "model.safetensors") for model in (bases[family], exported))
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert {path.name for path in exported.directory.iterdir()} >= set(PROCESSOR_FILES)
    chat = load_chat(exported, max_tokens=4, plain=True)
    assert isinstance("".join(chat.ask("heart")), str)


def test_class_of_a_checkpoint_is_the_one_that_its_configuration_names() -> None:
    for family, names in {"llama4": ("Llama4ForConditionalGeneration",), "qwen3_5": ()}.items():
        config = AutoConfig.for_model(family, architectures=list(names))
        assert auto_class(config) is (AutoModelForImageTextToText if names else AutoModelForCausalLM)
    assert auto_class(AutoConfig.for_model("llava")) is AutoModelForImageTextToText
    assert auto_class(AutoConfig.for_model("llama")) is AutoModelForCausalLM


def test_loaded_checkpoint_reads_no_cache(bases: dict[str, ModelRef]) -> None:
    assert load_model(bases["llava"]).config.use_cache is False


@pytest.mark.parametrize("scope", SCOPES)
def test_alignment_changes_the_text_part_and_keeps_the_rest(
    bases: dict[str, ModelRef], tmp_path: Path, scope: str
) -> None:
    store, model = ArtifactStore(tmp_path), bases["gemma3"]
    for config, run in ((SFT, run_sft), (DPO, run_dpo)):
        settings = config.model_copy(update={"scope": SCOPES[scope]})
        aligned = ModelRef.from_artifact(run(store, model, settings), "aligned")
        before, after = (load_file(each.directory / "model.safetensors") for each in (model, aligned))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert set(before) == set(after) and changed and not any(map(is_vision, changed))
        assert not AutoModelForImageTextToText.from_pretrained(aligned.path, output_loading_info=True)[1][
            "missing_keys"
        ]
        model = aligned
