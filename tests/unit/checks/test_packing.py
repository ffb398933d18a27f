"""Architectures on packed rows, tried on a small random copy of the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PretrainedConfig

from mixcpt.checks import packing
from mixcpt.checks.packing import _probe_problems
from mixcpt.checks.small_model import small_copies
from mixcpt.store.models import ModelRef
from tests.unit.checks.checked_models import problems, subject, write_family

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen2", {}),
        ("gemma2", {"head_dim": 8, "sliding_window": 8}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 8}),
        ("mixtral", EXPERTS),
        ("granite", {"logits_scaling": 4.0}),
        ("cohere", {"logit_scale": 0.5}),
    ],
)
def test_architectures_that_keep_documents_apart_are_accepted(
    family: str, settings: dict[str, Any], tiny_model: ModelRef, tmp_path: Path
) -> None:
    folder = write_family(tiny_model, tmp_path / family, family, **settings)
    assert not [*packing.check(subject(folder))]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mamba", {"state_size": 4}),
        ("gpt_oss", {**EXPERTS, "head_dim": 8, "sliding_window": 8}),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        ("bloom", {}),
        ("bert", {"is_decoder": False}),
        ("llama4_text", {**EXPERTS, "num_experts_per_tok": 1, "head_dim": 8, "intermediate_size_mlp": 64}),
    ],
)
def test_architectures_that_packing_does_not_fit_are_told_before_any_work(
    family: str, settings: dict[str, Any], tiny_model: ModelRef, tmp_path: Path
) -> None:
    folder = write_family(tiny_model, tmp_path / family, family, **settings)
    findings = [*packing.check(subject(folder))]
    assert findings
    assert all(str(finding).startswith("base.model: ") for finding in findings)


def test_rows_longer_than_the_context_are_refused(tiny_model: ModelRef) -> None:
    [problem] = problems(packing.check, subject(tiny_model.directory, row_tokens=257))
    assert problem.startswith("mixture.row_tokens is 257")


def large(family: str, **settings: Any) -> PretrainedConfig:
    return AutoConfig.for_model(family, **settings)


@pytest.mark.parametrize(
    "config",
    [
        large("llama", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64),
        large("qwen3_moe", num_hidden_layers=48),
        large("gemma3", text_config={"num_hidden_layers": 62}),
        large("deepseek_v3", n_group=8, topk_group=4, num_experts_per_tok=8),
    ],
    ids=lambda config: config.model_type,
)
def test_large_architectures_are_probed_on_a_copy_of_few_parameters(config: PretrainedConfig) -> None:
    model, is_whole = next(small_copies(config))
    assert not is_whole
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000_000
    assert not [*_probe_problems(config)]


@pytest.mark.parametrize(("family", "settings"), [("mamba2", {}), ("jamba", {}), ("gpt_oss", {}), ("falcon", {})])
def test_large_architectures_that_leak_are_found_on_a_copy(family: str, settings: dict[str, Any]) -> None:
    findings = [*_probe_problems(large(family, **settings))]
    assert findings
    assert "lets the documents of a packed row see each other" in str(findings[0])


def test_copy_keeps_a_layer_of_every_kind() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = large("gemma3_text", hidden_size=2048, num_hidden_layers=24, layer_types=kinds * 4)
    model, _ = next(small_copies(config))
    assert model.config.layer_types == kinds


def test_probe_leaves_the_random_numbers_of_the_caller_as_they_are(tiny_model: ModelRef) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert not [*packing.check(subject(tiny_model.directory))]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 0}, {"intermediate_size": 1}, {"vocab_size": 3}])
def test_unusual_sizes_never_raise(settings: dict[str, int]) -> None:
    config = large("llama", **{"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, **settings})
    assert all(finding.problem for finding in _probe_problems(config))
