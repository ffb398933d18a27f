"""Parameters that no loss of tokens reaches, and modules without adapters."""

import copy
from typing import Any

import pytest
import torch

from benchmarks.family_models import built
from mixcpt.config import FullScopeConfig, LoraScopeConfig
from mixcpt.train.scope import adapter_off, apply_scope, check_gradients, merged, not_adapted, scope_summary

LORA = LoraScopeConfig(rank=4)
IDS = torch.arange(5, 13).unsqueeze(0)


def frozen(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize(
    ("family", "part"), [("deepseek_v32", "indexer"), ("bart", "encoder_attn"), ("deepseek_v4", "compressor")]
)
def test_parameters_that_no_loss_reaches_are_frozen_and_the_rest_is_trained(family: str, part: str) -> None:
    model = apply_scope(built(family), FullScopeConfig(), seed=0)
    names = frozen(model)
    assert names and all(part in name for name in names if "encoder_attn_layer_norm" not in name)
    model.train()(input_ids=IDS).logits.sum().backward()
    check_gradients(model)


@pytest.mark.parametrize("family", ["llama", "mixtral", "phimoe", "gemma3", "mamba"])
def test_usual_families_are_trained_whole(family: str) -> None:
    model = built(family)
    text = {name for name, _ in model.named_parameters() if "vision" not in name and "projector" not in name}
    assert not frozen(apply_scope(model, FullScopeConfig(), seed=0)) & text


@pytest.mark.parametrize("family", ["gemma3n_text", "jamba", "longcat_flash", "mamba", "falcon_h1", "deepseek_v4"])
def test_adapters_that_no_loss_reaches_stay_as_they_are_and_are_listed(family: str) -> None:
    model = apply_scope(built(family), LORA, seed=0)
    model.train()(input_ids=IDS).logits.sum().backward()
    check_gradients(model)
    assert not_adapted(model) and "without adapters: " in scope_summary(model)


@pytest.mark.parametrize("family", ["phimoe", "granitemoe"])
def test_experts_change_with_adapters_or_are_listed(family: str) -> None:
    base = built(family)
    model = apply_scope(copy.deepcopy(base), LORA, seed=0)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    for _ in range(2):
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    listed = not_adapted(model)
    before, after = base.state_dict(), merged(model).state_dict()
    matrices = [name for name, weight in before.items() if weight.ndim > 1 and "layers" in name]
    assert any("experts" in name or "input_linear" in name for name in matrices)
    for name in matrices:
        kind = ".".join(part for part in name.split(".") if not part.isdigit())
        assert torch.equal(before[name], after[name]) == (kind in listed), name


def test_frozen_adapters_stay_frozen_after_they_were_switched_off() -> None:
    model = apply_scope(built("deepseek_v32"), LORA, seed=0)
    names = frozen(model)
    with adapter_off(model):
        pass
    assert frozen(model) == names
