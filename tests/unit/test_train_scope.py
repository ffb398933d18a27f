"""LoRA: starts at the base model, trains what it says, is switched off exactly, is merged without a trace."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mixcpt.config import FullScope, LoraScope
from mixcpt.distill.body import hidden_states
from mixcpt.distill.head import CausalModel, head_of
from mixcpt.errors import ModelError
from mixcpt.models import ModelRef, load_model
from mixcpt.train.scope import adapter_off, apply_scope, check_gradients, merged, scope_summary

IDS = torch.arange(5, 25).reshape(2, 10)
POSITIONS = torch.arange(10).expand(2, 10)


@pytest.fixture(scope="module")
def untied(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The tiny model with a head of its own."""
    folder = tmp_path_factory.mktemp("untied")
    model = load_model(tiny_model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 1.1)
    model.save_pretrained(folder)
    for path in tiny_model.directory.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return ModelRef("untied", str(folder), "untied")


def logits(model: CausalModel) -> Tensor:
    return model(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits  # type: ignore[no-any-return]


def moved(model: CausalModel) -> CausalModel:
    """The model after a training that moved all that is trained."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


SCOPES = [
    LoraScope(rank=4),
    LoraScope(rank=4, dropout=0.3),
    LoraScope(rank=4, train_norms=True),
    LoraScope(rank=2, train_embeddings=True, train_head=True, train_norms=True),
]


@pytest.mark.parametrize("scope", SCOPES)
def test_adapters_start_at_the_base_and_switch_off_exactly(untied: ModelRef, scope: LoraScope) -> None:
    base = load_model(untied)
    expected = logits(base).detach()
    adapted = apply_scope(load_model(untied), scope, seed=0)
    torch.testing.assert_close(logits(adapted.eval()).detach(), expected)
    moved(adapted).train()
    assert not torch.allclose(logits(adapted), expected, atol=1e-3)
    with adapter_off(adapted):
        assert torch.equal(logits(adapted), expected)
        assert torch.equal(hidden_states(adapted, IDS, POSITIONS), hidden_states(base, IDS, POSITIONS))
        assert torch.equal(head_of(adapted).weight, head_of(base).weight)
    assert adapted.training


@pytest.mark.parametrize("scope", SCOPES)
def test_body_and_head_are_those_of_the_adapted_model(untied: ModelRef, scope: LoraScope) -> None:
    adapted = moved(apply_scope(load_model(untied), scope, seed=0)).eval()
    fused = hidden_states(adapted, IDS, POSITIONS) @ head_of(adapted).weight.T
    torch.testing.assert_close(fused, logits(adapted))


@pytest.mark.parametrize("scope", SCOPES)
def test_merged_model_answers_alike_and_is_a_plain_folder(untied: ModelRef, tmp_path: Path, scope: LoraScope) -> None:
    adapted = moved(apply_scope(load_model(untied), scope, seed=0)).eval()
    expected = logits(adapted).detach()
    plain = merged(adapted)
    plain.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded).detach(), expected, rtol=1e-4, atol=1e-5)
    assert {path.name for path in tmp_path.glob("*")} >= {"config.json", "model.safetensors"}
    assert not list(tmp_path.glob("adapter*"))
    assert not any("lora" in name for name in loaded.state_dict())


def test_tied_model_stays_tied_after_the_merge(tiny_model: ModelRef, tmp_path: Path) -> None:
    plain = merged(moved(apply_scope(load_model(tiny_model), LoraScope(), seed=0)))
    plain.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight


@pytest.mark.parametrize("setting", ["train_head", "train_embeddings"])
def test_lora_on_a_tied_head_is_refused(tiny_model: ModelRef, setting: str) -> None:
    with pytest.raises(ModelError, match="its embedding table"):
        apply_scope(load_model(tiny_model), LoraScope(**{setting: True}), seed=0)


def test_scope_names_what_it_trains(untied: ModelRef) -> None:
    model = load_model(untied)
    linear = 2 * 7  # q, k, v, o, gate, up, down in each of two layers
    adapted = apply_scope(model, LoraScope(rank=4, train_norms=True), seed=0)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert sum("lora_A" in name for name in trained) == sum("lora_B" in name for name in trained) == linear
    assert sum("norm" in name for name in trained) == 5
    assert not any("lm_head" in name or "embed" in name for name in trained)
    summary = scope_summary(adapted)
    count = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert summary.startswith(f"training {count:,} of") and "q_proj.lora_A" in summary
    full = apply_scope(load_model(untied), FullScope(), seed=0)
    assert all(weight.requires_grad for weight in full.parameters())
    assert "(100.00%)" in scope_summary(full)


def test_adapters_depend_on_the_seed_alone(untied: ModelRef) -> None:
    def first(seed: int) -> Tensor:
        torch.randn(3)  # the global generator's state must not matter
        adapted = apply_scope(load_model(untied), LoraScope(), seed=seed)
        return next(weight for name, weight in adapted.named_parameters() if "lora_A" in name).detach()

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_parameter_without_gradient_is_named(untied: ModelRef) -> None:
    adapted = apply_scope(load_model(untied), LoraScope(), seed=0)
    logits(adapted).sum().backward()
    check_gradients(adapted)
    missing = next(name for name, weight in adapted.named_parameters() if weight.requires_grad)
    adapted.get_parameter(missing).grad = None
    with pytest.raises(ModelError, match=f"1 parameters in scope get no gradient: {missing}"):
        check_gradients(adapted)


def test_adapter_off_without_adapters_is_refused(tiny_model: ModelRef) -> None:
    with pytest.raises(ModelError, match="no adapters"), adapter_off(load_model(tiny_model)):
        pass
