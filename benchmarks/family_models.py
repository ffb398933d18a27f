"""Tiny random models of the families of transformers, for `families.py`."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

VOCAB = 128
MAX_TOKEN = 96
"""Tokens of text are below it, because the tokens of images are the last ones of the vocabulary."""
_MAX_PARAMETERS = 20_000_000
_SIZES: dict[str, Any] = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_SIZES_IF_KNOWN: dict[str, Any] = {
    # experts
    **{"num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_num_experts": 4, "moe_k": 2, "moe_topk": 2, "moe_intermediate_size": 16, "expert_ffn_hidden_size": 16},
    **{"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "shared_expert_intermediate_size": 16},
    **{"first_k_dense_replace": 1, "zero_expert_num": 2, "shared_intermediate_size": 16, "ffn_hidden_size": 48},
    # attention over a compressed state, and indexed attention
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 16},
    **{"o_lora_rank": 16, "o_groups": 2, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 64},
    **{"attention_head_size": 8, "attention_head_dim": 8, "num_kv_heads": 2, "rotary_dim": 4},
    # state-space and linear attention layers
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_ssm": 64},
    **{"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "state_size": 8, "lru_width": 32},
    # widths of other names
    **{"embedding_size": 32, "input_embedding_size": 32, "output_embedding_size": 32, "ffn_dim": 48},
    **{"word_embed_proj_dim": 32, "dim_feedforward": 48, "dim_head": 8, "dim_ff": 48, "d_kv": 8},
    **{"decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "decoder_layers": 2, "encoder_layers": 2},
    **{"decoder_attention_heads": 4, "encoder_attention_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2},
    **{"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
    **{"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "laurel_rank": 4},
    **{"num_kv_shared_layers": 0, "query_pre_attn_scalar": 8, "attention_chunk_size": 8, "intermediate_size_mlp": 48},
    **{"sliding_window": 8, "local_attention": 8, "activation_sparsity_pattern": [0.0, 0.0]},
}
_CHANGES: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 8},
    "llama4_text": {"num_experts_per_tok": 1},
    "mixtral": {"output_router_logits": True, "router_aux_loss_coef": 0.02},
    "qwen3_moe": {"output_router_logits": True, "router_aux_loss_coef": 0.02},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "minicpm_ocr": {"num_hidden_layers": 4},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba2": {"hybrid_layer_ids": [1]},
    "mistral4": {"head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
}
_VISION_SIZES: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "depth": 1},
    **{"image_size": 28, "patch_size": 14, "embed_dim": 32, "num_heads": 2, "out_hidden_size": 32},
    **{"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "num_global_layers": 1},
    **{"attention_heads": 2, "intermediate_layers_indices": [0], "projection_dim": 32, "text_hidden_size": 32},
    **{"deepstack_visual_indexes": [0], "fullatt_block_indexes": [0], "window_size": 28},
    **{"num_position_embeddings": 4, "d_model": 32, "num_channels": 3},
}
_NOISE = ("drop", "jitter", "noise")
"""Parts of the names of settings that make a forward pass random."""


def families() -> list[str]:
    """Return the names of all causal families, and of those that also read images."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def built(family: str) -> Any:
    """Return a tiny random model of a family, without dropout.

    If no sizes give a model that reads text, it is one that does not; if none gives a model, the first error is raised.
    """
    first_error, first_model = None, None
    for options in _options(family):
        try:
            config = AutoConfig.for_model(family, **options)
            _require_tiny(_model(family, config, device="meta"))
            torch.manual_seed(0)
            model = _visible(_model(family, config, device="cpu").float())
            model.config.use_cache = False
        except Exception as error:  # noqa: BLE001 - architectures fail on small sizes with any error
            first_error = first_error or error
            continue
        if _reads_text(model):
            return model
        first_model = first_model or model
    if first_model is None:
        raise first_error or ValueError("no sizes")
    return first_model


def _reads_text(model: Any) -> bool:
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.arange(5, 15).unsqueeze(0))
    except Exception:  # noqa: BLE001 - architectures fail on small sizes with any error
        return False
    return True


def reads_images(family: str) -> bool:
    return family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _model(family: str, config: Any, *, device: str) -> Any:
    maker = AutoModelForImageTextToText if reads_images(family) else AutoModelForCausalLM
    with torch.device(device):
        return maker.from_config(config)


def _require_tiny(model: Any) -> None:
    count = sum(weight.numel() for weight in model.parameters())
    if count > _MAX_PARAMETERS:
        raise ValueError(f"{count:,} parameters with the small sizes")


def _visible(model: Any) -> Any:
    """Make the weights large enough that each part of the model has a visible effect."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            std = weight.std().item() if weight.ndim == 2 and name.endswith("weight") else 0.0
            if std > 0:
                weight.mul_(weight.shape[1] ** -0.5 / std)
    return model


def _options(family: str) -> Iterator[dict[str, Any]]:
    """Yield settings of a tiny model, the most probable first."""
    default = AutoConfig.for_model(family)
    if getattr(default, "text_config", None) is None:
        yield from _text_options(default, _CHANGES.get(family, {}))
        return
    parts = {name: _part_options(part) for name, part in _parts(default) if name != "text_config"}
    tokens = _image_tokens(default)
    for text in _text_options(default.text_config, _CHANGES.get(family, {})):
        yield {"text_config": text, **parts, **tokens}
        yield {"text_config": text, **parts, **tokens, "vocab_size": VOCAB, "hidden_size": _SIZES["hidden_size"]}


def _text_options(default: Any, changes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    options = {**_SIZES, **{name: value for name, value in _SIZES_IF_KNOWN.items() if _has(default, name)}}
    options |= {name: 0.0 for name, value in default.to_dict().items() if _is_noise(name, value)}
    head_dim = options.get("qk_rope_head_dim", 8)
    if "kv_lora_rank" in options:  # every head has keys and values of its own
        options["num_key_value_heads"] = options["num_attention_heads"]
    heads = [{"head_dim": head_dim}, {}] if _has(default, "head_dim") else [{}, {"head_dim": head_dim}]
    layers = [*_one_of_each_kind(default), {"num_hidden_layers": 2}, {"num_hidden_layers": 4}]
    for rope in ({}, *({"rope_parameters": _rope(default, sections)} for sections in ([2, 1, 1], [1, 1, 0]))):
        for head in heads:
            for layer in layers:
                yield {**options, **layer, **head, **rope, **changes}
    yield {**{name: value for name, value in _SIZES.items() if _has(default, name)}, **changes}


def _has(default: Any, name: str) -> bool:
    if name in default.to_dict() or name in default.attribute_map:
        return True
    try:
        return getattr(default, name, None) is not None
    except Exception:  # noqa: BLE001 - a setting that differs between layers has an error of its own
        return True


def _one_of_each_kind(default: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings of one layer of each kind, if the settings name the kinds of layers."""
    data = default.to_dict()
    lists = {name: value for name, value in data.items() if isinstance(value, list) and value}
    kinds = {name: value for name, value in lists.items() if len(value) == default.num_hidden_layers}
    if any(isinstance(value[0], str) for value in kinds.values()):
        columns = list(dict.fromkeys(zip(*kinds.values(), strict=True)))[:4]
        columns += columns[-1:] if len(columns) == 1 else []
        values = [list(value) for value in zip(*columns, strict=True)]
        yield {**dict(zip(kinds, values, strict=True)), "num_hidden_layers": len(columns)}


def _rope(default: Any, sections: list[int]) -> dict[str, Any]:
    """Return rotary positions in three dimensions for small heads."""
    known = default.to_dict().get("rope_parameters") or {}
    return {"rope_type": "default", "rope_theta": 10_000.0, **known, "mrope_section": sections}


def _is_noise(name: str, value: object) -> bool:
    return isinstance(value, float) and any(part in name for part in _NOISE)


def _parts(default: Any) -> Iterator[tuple[str, Any]]:
    """Yield the settings of all parts of a model."""
    for name in default.sub_configs or {}:
        if (part := getattr(default, name, None)) is not None and hasattr(part, "to_dict"):
            yield name, part


def _part_options(default: Any) -> dict[str, Any]:
    data = default.to_dict()
    options = {name: value for name, value in _VISION_SIZES.items() if data.get(name) is not None}
    options |= {name: 0.0 for name, value in data.items() if _is_noise(name, value)}
    return {"model_type": default.model_type, **options} if default.model_type else options


def _image_tokens(default: Any) -> dict[str, int]:
    """Return tokens at the end of the vocabulary for every role that a family gives a token outside text."""
    names = [name for name in default.to_dict() if name.endswith(("_token_id", "_token_index"))]
    roles = [name for name in names if name not in ("bos_token_id", "eos_token_id", "pad_token_id")]
    return {name: VOCAB - 1 - number for number, name in enumerate(roles) if number < VOCAB - MAX_TOKEN}
