"""Architectures on packed rows, tried on a small random copy of the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PretrainedConfig

from benchmarks.family_models import built
from mixcpt.checks import packing, padding
from mixcpt.checks.findings import Subject
from mixcpt.checks.packing import _first_answer
from mixcpt.checks.small_model import small_copies
from mixcpt.checks.trained_scope import scope_findings, scopes_of
from mixcpt.config import FullScopeConfig, LoraScopeConfig, Scope
from mixcpt.store.models import ModelRef
from tests.unit.checks.checked_models import problems, subject, warnings, write_family

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
        ("llama4_text", {**EXPERTS, "num_experts_per_tok": 1, "head_dim": 8, "intermediate_size_mlp": 64}),
    ],
)
def test_architectures_that_mix_packed_documents_are_a_warning_with_the_padding(
    family: str, settings: dict[str, Any], tiny_model: ModelRef, tmp_path: Path
) -> None:
    checked = subject(write_family(tiny_model, tmp_path / family, family, **settings))
    assert not problems(packing.check, checked)
    [warning] = warnings(packing.check, checked)
    assert "mixes the documents of a packed row, so it reads one document per row; about " in warning


@pytest.mark.parametrize(
    ("family", "settings"), [("mamba", {"state_size": 4}), ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32})]
)
def test_packing_that_an_architecture_does_not_keep_apart_is_refused(
    family: str, settings: dict[str, Any], tiny_model: ModelRef, tmp_path: Path
) -> None:
    checked = subject(write_family(tiny_model, tmp_path / family, family, **settings))
    pretrain = checked.config.pretrain.model_copy(update={"packing": "packed"})
    packed = Subject(checked.config.model_copy(update={"pretrain": pretrain}), checked.base)
    [problem] = problems(packing.check, packed)
    assert problem.startswith("pretrain.packing is packed, but ")
    assert "set pretrain.packing to auto or one_document" in problem
    assert not warnings(packing.check, packed)


@pytest.mark.parametrize("choice", ["auto", "packed"])
def test_packing_of_an_architecture_that_keeps_documents_apart_is_accepted(choice: str, tiny_model: ModelRef) -> None:
    checked = subject(tiny_model.directory)
    pretrain = checked.config.pretrain.model_copy(update={"packing": choice})
    assert not [*packing.check(Subject(checked.config.model_copy(update={"pretrain": pretrain}), checked.base))]


def test_architecture_that_reads_in_both_directions_is_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    settings = {"head_dim": 8, "sliding_window": 8, "use_bidirectional_attention": True}
    folder = write_family(tiny_model, tmp_path / "embedder", "gemma3_text", **settings)
    [problem] = problems(packing.check, subject(folder))
    assert "lets tokens see later tokens" in problem


def test_architecture_with_another_kind_of_head_is_refused(tiny_model: ModelRef, tmp_path: Path) -> None:
    folder = write_family(tiny_model, tmp_path / "bert", "bert", is_decoder=False)
    [problem] = problems(packing.check, subject(folder))
    assert problem.startswith("base.model: BertLMHeadModel computes its logits in an unsupported way")


def test_padding_share_of_documents_of_one_length_is_zero_and_of_two_lengths_is_known(
    tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lengths(*values: int) -> float | None:
        monkeypatch.setattr(padding, "_lengths", lambda checked: iter(values))
        return padding.padding_share(subject(tiny_model.directory, row_tokens=32))

    assert lengths(16, 16, 16) == 0
    assert lengths(8, 24) == 1 - 32 / 48
    assert lengths() is None


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
    assert _first_answer(config) == ("", [])


@pytest.mark.parametrize(("family", "settings"), [("mamba2", {}), ("jamba", {}), ("gpt_oss", {}), ("falcon", {})])
def test_large_architectures_that_leak_are_found_on_a_copy(family: str, settings: dict[str, Any]) -> None:
    name, findings = _first_answer(large(family, **settings))
    assert name.lower().startswith(family.replace("_", ""))
    assert not findings


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
def test_unusual_sizes_never_raise(settings: dict[str, int], tiny_model: ModelRef) -> None:
    config = large("llama", **{"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, **settings})
    folder = tiny_model.directory
    assert all(finding.problem for finding in packing._probe_findings(subject(folder), config))


@pytest.mark.parametrize("scope", [FullScopeConfig(), LoraScopeConfig()], ids=["full", "lora"])
def test_parameters_that_no_loss_reaches_are_one_warning(scope: Scope) -> None:
    model = built("deepseek_v32")
    [warning] = scope_findings(model, {"pretrain.scope": scope}, is_whole=True)
    assert warning.is_warning and warning.problem.startswith("pretrain.scope: no loss of tokens reaches")
    assert "indexer" in warning.problem


@pytest.mark.parametrize("family", ["phimoe", "mixtral", "granitemoe", "mamba", "llama4_text"])
@pytest.mark.parametrize("scope", [FullScopeConfig(), LoraScopeConfig()], ids=["full", "lora"])
def test_experts_without_tokens_and_state_layers_are_no_finding(family: str, scope: Scope) -> None:
    assert not [*scope_findings(built(family), {"pretrain.scope": scope}, is_whole=True)]


def test_adapters_that_do_not_fit_are_refused_with_the_key_of_the_scope() -> None:
    scopes: dict[str, Scope] = {"align.sft.scope": LoraScopeConfig(dropout=0.1)}
    [problem] = scope_findings(built("mixtral"), scopes, is_whole=True)
    assert problem.problem.startswith("align.sft.scope: ") and not problem.is_warning


def test_scopes_of_a_run_are_tried_once_each(tiny_model: ModelRef) -> None:
    assert list(scopes_of(subject(tiny_model.directory).config)) == ["pretrain.scope"]
