"""Small random copy of a model: its architecture with few layers, a small vocabulary and few experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixcpt.checks.loading import quiet

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

MAX_PARAMETERS = 20_000_000
"""Number of parameters up to which a model is copied in full."""
_LIMIT_PARAMETERS = 400_000_000
"""Number of parameters of the largest copy."""
_MIN_LAYERS, _MAX_LAYERS = 2, 16
_VOCABULARY = 512
_WIDTH = 256
_EXPERTS = 16
_WIDTHS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "ffn_dim", "n_inner")
_NUMBERS_OF_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ENDINGS_OF_INDICES = ("indices", "idxs", "layer_ids", "_layers")


def small_copy(config: PretrainedConfig) -> tuple[PreTrainedModel, bool] | None:
    """Return a random copy and whether it has all layers of the model; None if even the copy would be large.

    Layers of every kind are kept, in their order from the first one.
    """
    import torch

    whole = _skeleton(config)
    is_whole = _num_parameters(whole) <= MAX_PARAMETERS
    small = config if is_whole else _shrunk(config, whole)
    if not is_whole and _num_parameters(_skeleton(small)) > _LIMIT_PARAMETERS:
        return None
    with torch.random.fork_rng(devices=()), quiet():
        torch.manual_seed(0)
        model = _from_config(small)
        _spread(model)
    return model, is_whole


def _from_config(config: PretrainedConfig) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def _skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model without values."""
    import torch

    with torch.device("meta"), quiet():
        return _from_config(config)


def _num_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _spread(model: PreTrainedModel) -> None:
    """Draw larger weights than an initialisation does, so that every part of the model has a visible effect."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.endswith("weight"):
                parameter.normal_(std=parameter.shape[1] ** -0.5)


def _shrunk(config: PretrainedConfig, model: PreTrainedModel) -> PretrainedConfig:
    """Return the settings of the text part with fewer layers and tokens, and narrower experts."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    is_separate = text is config or type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    owner = text if is_separate else config
    data = owner.to_dict()
    part = data if is_separate else data["text_config"]
    count = int(text.num_hidden_layers)
    _cut_layers(part, text.attribute_map.get("num_hidden_layers", "num_hidden_layers"), _num_needed(model, count))
    _narrow(part, is_recurrent=any("expand" in name for name in part) or hasattr(text, "state_size"))
    return type(owner).from_dict(data)


def _num_needed(model: nn.Module, count: int) -> int:
    """Return the number of first layers that contain every kind of layer."""
    from torch.nn import ModuleList

    stacks = [list(part) for part in model.modules() if isinstance(part, ModuleList) and len(part) == count]
    if not stacks:
        return min(count, _MAX_LAYERS)
    kinds = [_kind(layer) for layer in stacks[0]]
    needed = max(kinds.index(kind) for kind in set(kinds)) + 1
    return min(count, max(_MIN_LAYERS, min(needed, _MAX_LAYERS)))


def _kind(layer: nn.Module) -> str:
    """Return a text that is equal for layers of one kind: classes, shapes, and settings that are no numbers."""
    parts = []
    for name, module in layer.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, str | bool)}
        shapes = [tuple(parameter.shape) for parameter in module.parameters(recurse=False)]
        parts.append(f"{name} {type(module).__name__} {sorted(settings.items())} {shapes}")
    return "\n".join(parts)


def _cut_layers(data: dict[str, Any], key: str, needed: int) -> None:
    """Keep the first layers in every setting that has one entry per layer or the numbers of layers."""
    count = data[key]
    data[key] = needed
    for name, value in list(data.items()):
        if isinstance(value, list | str) and len(value) == count and name != "model_type":
            data[name] = value[:needed]
        elif isinstance(value, list) and name.endswith(_ENDINGS_OF_INDICES):
            data[name] = [number for number in value if not isinstance(number, int) or number < needed]
    if "num_kv_shared_layers" in data:
        data["num_kv_shared_layers"] = 0


def _narrow(data: dict[str, Any], *, is_recurrent: bool) -> None:
    """Reduce vocabulary, feed-forward width and number of experts; the width of recurrent layers is bound to others."""
    for name in ("vocab_size", "vocab_size_per_layer_input"):
        _limit(data, [name], _VOCABULARY)
    for name in list(data):
        if name.endswith("_token_id"):
            data[name] = None
    if not is_recurrent:
        _limit(data, _WIDTHS, _WIDTH)
    groups = data.get("n_group")
    _limit(data, _NUMBERS_OF_EXPERTS, max(_EXPERTS, 2 * groups if isinstance(groups, int) else 0))


def _limit(data: dict[str, Any], names: Sequence[str], maximum: int) -> None:
    for name in names:
        if isinstance(value := data.get(name), int) and value > maximum:
            data[name] = maximum
        elif isinstance(value, list) and all(isinstance(size, int) for size in value):
            data[name] = [min(size, maximum) for size in value]
