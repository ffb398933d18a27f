"""LoRA: starts at the base model, trains the named parameters, can be disabled exactly, and merges fully."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaMLP

from mixcpt.config import (
    AdapterOffTeacherConfig,
    FrozenTeacherConfig,
    FullScopeConfig,
    LoraScopeConfig,
    OptimizerConfig,
    TeacherConfig,
)
from mixcpt.distill.model import CausalModel, head_of, hidden_states
from mixcpt.errors import ModelError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker
from mixcpt.train.pretrain import pretrain
from mixcpt.train.scope import adapter_off, apply_scope, check_gradients, merged, scope_summary
from tests.unit.train.test_train_pretrain import CONFIG, DyingTracker, Interruption, history_of, mixture, weights_of

IDS = torch.arange(5, 25).reshape(2, 10)
POSITIONS = torch.arange(10).expand(2, 10)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def untied(tiny_model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The tiny model with an untied head."""
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
    """Change all trained parameters, as a training would, and return the model."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


SCOPES = [
    LoraScopeConfig(rank=4),
    LoraScopeConfig(rank=4, dropout=0.3),
    LoraScopeConfig(rank=4, train_norms=True),
    LoraScopeConfig(rank=2, train_embeddings=True, train_head=True, train_norms=True),
]


@pytest.mark.parametrize("scope", SCOPES)
def test_adapters_start_at_the_base_and_switch_off_exactly(untied: ModelRef, scope: LoraScopeConfig) -> None:
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
def test_body_and_head_are_those_of_the_adapted_model(untied: ModelRef, scope: LoraScopeConfig) -> None:
    adapted = moved(apply_scope(load_model(untied), scope, seed=0)).eval()
    fused = hidden_states(adapted, IDS, POSITIONS) @ head_of(adapted).weight.T
    torch.testing.assert_close(fused, logits(adapted))


@pytest.mark.parametrize("scope", SCOPES)
def test_merged_model_answers_alike_and_is_a_plain_folder(
    untied: ModelRef, tmp_path: Path, scope: LoraScopeConfig
) -> None:
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
    plain = merged(moved(apply_scope(load_model(tiny_model), LoraScopeConfig(), seed=0)))
    plain.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight


@pytest.mark.parametrize("setting", ["train_head", "train_embeddings"])
def test_lora_on_a_tied_head_is_refused(tiny_model: ModelRef, setting: str) -> None:
    with pytest.raises(ModelError, match="its embedding table"):
        apply_scope(load_model(tiny_model), LoraScopeConfig(**{setting: True}), seed=0)


def test_scope_names_what_it_trains(untied: ModelRef) -> None:
    model = load_model(untied)
    linear = 2 * 7  # q, k, v, o, gate, up, down in each of two layers
    adapted = apply_scope(model, LoraScopeConfig(rank=4, train_norms=True), seed=0)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert sum("lora_A" in name for name in trained) == sum("lora_B" in name for name in trained) == linear
    assert sum("norm" in name for name in trained) == 5
    assert not any("lm_head" in name or "embed" in name for name in trained)
    summary = scope_summary(adapted)
    count = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert summary.startswith(f"training {count:,} of") and "q_proj.lora_A" in summary
    full = apply_scope(load_model(untied), FullScopeConfig(), seed=0)
    assert all(weight.requires_grad for weight in full.parameters())
    assert "(100.00%)" in scope_summary(full)


def test_adapters_depend_on_the_seed_alone_and_leave_the_generator_as_it_was(untied: ModelRef) -> None:
    def first(seed: int) -> Tensor:
        torch.randn(3)  # the global generator's state must not matter
        state = torch.get_rng_state()
        adapted = apply_scope(load_model(untied), LoraScopeConfig(), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return next(weight for name, weight in adapted.named_parameters() if "lora_A" in name).detach()

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_parameter_without_gradient_is_named(untied: ModelRef) -> None:
    adapted = apply_scope(load_model(untied), LoraScopeConfig(), seed=0)
    logits(adapted).sum().backward()
    check_gradients(adapted)
    missing = next(name for name, weight in adapted.named_parameters() if weight.requires_grad)
    adapted.get_parameter(missing).grad = None
    with pytest.raises(ModelError, match=f"1 parameters in scope get no gradient: {missing}"):
        check_gradients(adapted)


def test_adapter_off_without_adapters_is_refused(tiny_model: ModelRef) -> None:
    with pytest.raises(ModelError, match="no adapters"), adapter_off(load_model(tiny_model)):
        pass


def test_adapters_are_on_again_after_an_error(untied: ModelRef) -> None:
    adapted = moved(apply_scope(load_model(untied), SCOPES[-1], seed=0)).train()
    expected = logits(adapted).detach()
    with pytest.raises(ZeroDivisionError), adapter_off(adapted):
        1 / 0  # noqa: B018
    assert adapted.training and torch.equal(logits(adapted), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_switching_off_between_forward_and_backward_changes_no_gradient(
    untied: ModelRef, scope: LoraScopeConfig
) -> None:
    def gradients(is_taught: bool) -> dict[str, Tensor]:
        adapted = moved(apply_scope(load_model(untied), scope, seed=0)).train()
        torch.manual_seed(5)
        loss = logits(adapted).square().sum()
        if is_taught:
            with adapter_off(adapted), torch.no_grad():
                logits(adapted)
        loss.backward()
        check_gradients(adapted)
        return {name: weight.grad for name, weight in adapted.named_parameters() if weight.grad is not None}

    expected, taught = gradients(False), gradients(True)
    assert expected.keys() == taught.keys()
    assert all(torch.equal(taught[name], gradient) and gradient.any() for name, gradient in expected.items())


def gpt2() -> GPT2LMHeadModel:
    """Return a base model with dropout, whose normalisations are named ln_1, ln_2 and ln_f."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config).eval()  # type: ignore[no-any-return]


def test_switching_off_stops_the_dropout_of_the_base_model_too() -> None:
    expected = logits(gpt2())
    adapted = moved(apply_scope(gpt2(), LoraScopeConfig(), seed=0)).train()
    assert not torch.equal(logits(adapted), logits(adapted))
    with adapter_off(adapted):
        assert torch.equal(logits(adapted), expected)


def test_norms_are_found_by_their_class_and_missed_ones_are_refused() -> None:
    adapted = apply_scope(gpt2(), LoraScopeConfig(train_norms=True), seed=0)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad and "lora" not in name]
    assert len(trained) == 5 * 2 and all(".ln_" in name for name in trained)
    without = OlmoForCausalLM(OlmoConfig(vocab_size=40, pad_token_id=3, eos_token_id=2, **SMALL))
    with pytest.raises(ModelError, match="no normalisation weights"):
        apply_scope(without, LoraScopeConfig(train_norms=True), seed=0)


def test_fused_experts_are_adapted_and_merged_but_refused_with_dropout(tmp_path: Path) -> None:
    def model() -> MixtralForCausalLM:
        torch.manual_seed(0)
        return MixtralForCausalLM(MixtralConfig(vocab_size=40, num_local_experts=4, **SMALL)).eval()

    adapted = moved(apply_scope(model(), LoraScopeConfig(rank=4), seed=0)).eval()
    assert any("experts.lora_A" in name for name, _ in adapted.named_parameters())
    expected = logits(adapted).detach()
    with adapter_off(adapted):
        assert torch.equal(logits(adapted), logits(model()))
    merged(adapted).save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)).detach(), expected)
    with pytest.raises(ModelError, match="do not fit MixtralForCausalLM"):
        apply_scope(model(), LoraScopeConfig(dropout=0.1), seed=0)


def trained(
    base: ModelRef, store: ArtifactStore, scope: LoraScopeConfig, *, dies_at: int = 0, **settings: TeacherConfig | bool
) -> ArtifactRef:
    """Return the model after seven steps, with an interruption at step `dies_at` if it is not 0."""
    config = CONFIG.model_copy(
        update={
            "scope": scope,
            "optimizer": OptimizerConfig(schedule="wsd", learning_rate=1e-2),
            **settings,
        }
    )
    rows = mixture(store)
    if dies_at:
        with pytest.raises(Interruption):
            pretrain(config, rows, base, seed=1, store=store, tracker=DyingTracker(dies_at))
    return pretrain(config, rows, base, seed=1, store=store, tracker=NullTracker())


def assert_same(first: ArtifactRef, second: ArtifactRef) -> None:
    expected = weights_of(first)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(second).items())
    assert history_of(first) == history_of(second)


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_adapters_switched_off_teach_what_a_frozen_copy_teaches(
    untied: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_recomputed: bool
) -> None:
    """Bit for bit, with dropout in the student and with its activations recomputed in the backward."""
    scope = LoraScopeConfig(rank=4, dropout=0.2, train_norms=True, train_head=True)
    calls: list[Tensor] = []
    forward = LlamaMLP.forward

    def counted(mlp: LlamaMLP, hidden: Tensor) -> Tensor:
        calls.append(hidden)
        return forward(mlp, hidden)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    frozen = trained(untied, ArtifactStore(tmp_path / "frozen"), scope, teacher=FrozenTeacherConfig())
    num_plain = len(calls)
    store = ArtifactStore(tmp_path / "off")
    switched = trained(untied, store, scope, teacher=AdapterOffTeacherConfig(), gradient_checkpointing=is_recomputed)
    num_layers, num_steps = 2, 7
    assert len(calls) - 2 * num_plain == (num_layers * num_steps if is_recomputed else 0)
    assert_same(frozen, switched)
    before = load_model(untied).state_dict()
    moved_by = {name: (weight - before[name]).abs().max() for name, weight in weights_of(switched).items()}
    assert {name for name, distance in moved_by.items() if distance == 0} == {"model.embed_tokens.weight"}


def test_interrupted_adapters_and_whole_modules_resume_bit_for_bit(untied: ModelRef, tmp_path: Path) -> None:
    scope = LoraScopeConfig(rank=2, dropout=0.2, train_embeddings=True, train_head=True, train_norms=True)
    straight = trained(untied, ArtifactStore(tmp_path / "straight"), scope)
    assert_same(straight, trained(untied, ArtifactStore(tmp_path / "resumed"), scope, dies_at=5))
