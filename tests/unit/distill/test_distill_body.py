"""Requirements for a model to be trained: a supported head, and packed documents that do not see each other."""

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from mixcpt.distill.model import check_model, head_of, hidden_states
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


def test_model_that_mixes_packed_documents_is_refused() -> None:
    model = model_of(KNOWN["llama"])
    decoder = model.get_decoder()
    forward = decoder.forward

    def with_mask_of_ones(input_ids: Tensor, **rest: object) -> object:
        return forward(input_ids=input_ids, **{**rest, "attention_mask": torch.ones_like(input_ids)})

    decoder.forward = with_mask_of_ones
    with pytest.raises(ModelError, match="see each other"):
        check_model(model)


def test_model_without_positions_is_refused() -> None:
    config = MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1, pad_token_id=0)
    with pytest.raises(ModelError, match=r"position_ids|see each other"):
        check_model(model_of(config))


def test_model_with_a_biased_head_is_refused() -> None:
    with pytest.raises(ModelError, match="bias"):
        head_of(model_of(GPTJConfig(vocab_size=40, n_embd=16, n_layer=1, n_head=4, rotary_dim=4)))


def test_model_whose_logits_are_made_otherwise_is_refused() -> None:
    model = model_of(KNOWN["llama"])
    model.lm_head.register_forward_hook(lambda module, inputs, logits: 1.5 * logits)
    with pytest.raises(ModelError, match="logits"):
        check_model(model)


def test_check_leaves_the_mode_of_the_model_as_it_was() -> None:
    model = model_of(KNOWN["llama"]).train()
    check_model(model)
    assert model.training
