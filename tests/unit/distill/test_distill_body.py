"""Requirements for a model to be trained: a supported head, and packed documents that do not see each other."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GptOssConfig,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from mixcpt.config import CptMethod
from mixcpt.distill.loss import distillation_loss
from mixcpt.distill.model import check_model, decoder_of, head_of, hidden_states, packing_leaks, read_alike
from mixcpt.errors import ModelError

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # large, so that a leak or a wrong head shows
}
KNOWN = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "scaled (Cohere)": CohereConfig(**SMALL, logit_scale=0.25),
    "divided (Granite)": GraniteConfig(**SMALL, logits_scaling=4.0),
    "soft-capped (Gemma 2)": Gemma2Config(**SMALL, final_logit_softcapping=2.0, query_pre_attn_scalar=4),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=64),
}


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.eval()


@pytest.mark.parametrize("name", list(KNOWN))
def test_head_gives_the_logits_of_the_model(name: str) -> None:
    model = model_of(KNOWN[name])
    check_model(model)
    ids = torch.tensor([[5, 7, 11, 13]])
    with torch.no_grad():
        hidden = hidden_states(model, ids, torch.arange(4).unsqueeze(0))[0]
        logits = head_of(model).logits(hidden, out=torch.empty(4, 40))
        torch.testing.assert_close(logits, model(ids).logits[0], rtol=1e-5, atol=1e-5)


def test_packed_documents_have_the_hidden_states_they_have_alone() -> None:
    model = model_of(KNOWN["llama"])
    ids = torch.tensor([[5, 7, 11, 13, 17, 5, 3]])
    with torch.no_grad():
        packed = hidden_states(model, ids, torch.tensor([[0, 1, 2, 0, 1, 0, 1]]))
        alone = torch.cat([model.model(part).last_hidden_state for part in ids.split([3, 2, 2], dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


LEAKY = {
    "gpt_oss": GptOssConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1, sliding_window=8),
    "llama4": Llama4TextConfig(
        **SMALL, num_local_experts=2, num_experts_per_tok=1, intermediate_size_mlp=32, attention_chunk_size=4
    ),
    "mamba": MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1, pad_token_id=0),
    "opt": OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16
    ),
}


@pytest.mark.parametrize("name", list(LEAKY))
def test_architecture_that_mixes_packed_documents_reads_one_document_per_row(name: str) -> None:
    model = model_of(LEAKY[name])
    assert packing_leaks(model)
    check_model(model)
    ids = torch.tensor([[5, 7, 11, 13, 17, 5, 3], [4, 9, 2, 6, 8, 1, 12]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        packed = hidden_states(model, ids, positions)
        alone = [decoder_of(model)(part).last_hidden_state for part in (*ids[:1].split([3, 2, 2], dim=1), ids[1:])]
    expected = torch.cat([torch.cat(alone[:3], dim=1), alone[3]])
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_architecture_that_keeps_packed_documents_apart_reads_packed_rows(name: str) -> None:
    assert not packing_leaks(model_of(KNOWN[name]))


def test_teacher_reads_rows_as_its_student_does() -> None:
    student, teacher = model_of(LEAKY["opt"]), model_of(LEAKY["opt"])
    check_model(student)
    read_alike(student, teacher)
    ids, positions = torch.tensor([[5, 7, 11, 13]]), torch.tensor([[0, 1, 0, 1]])
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(student, ids, positions), hidden_states(teacher, ids, positions))


def test_head_with_a_bias_gets_its_gradient() -> None:
    model = model_of(GPTJConfig(vocab_size=40, n_embd=16, n_layer=1, n_head=4, rotary_dim=4))
    torch.nn.init.normal_(model.lm_head.bias)
    ids, positions = torch.tensor([[5, 7, 11, 13]]), torch.arange(4).unsqueeze(0)
    objective = CptMethod().streams()[0]
    hidden = hidden_states(model, ids, positions)[0, :-1]
    distillation_loss(hidden, head_of(model), ids[0, 1:], objective, normaliser=3.0).loss.backward()
    fused = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(fused[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_model_whose_logits_are_made_otherwise_is_refused() -> None:
    model = model_of(KNOWN["llama"])
    model.lm_head.register_forward_hook(lambda module, inputs, logits: 1.5 * logits)
    with pytest.raises(ModelError, match="logits"):
        check_model(model)


def test_check_leaves_the_mode_of_the_model_as_it_was() -> None:
    model = model_of(KNOWN["llama"]).train()
    check_model(model)
    assert model.training
