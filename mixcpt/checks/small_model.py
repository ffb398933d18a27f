"""Small random copy of a model: its architecture with few layers, a small vocabulary and few experts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mixcpt.checks.loading import quiet

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

_log = logging.getLogger(__name__)
MAX_PARAMETERS = 20_000_000
"""Number of parameters up to which a model is copied in full."""
_LIMIT_PARAMETERS = 400_000_000
"""Number of parameters of the largest copy."""
_MIN_LAYERS, _MAX_LAYERS = 2, 16
_VOCABULARY = 512
_WIDTH = 256
_EXPERTS = 16
_HIDDEN = 256
_HEADS = 16
_WIDTHS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
_NUMBERS_OF_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ENDINGS_OF_INDICES = ("indices", "idxs", "layer_ids", "_layers")


def small_copies(config: PretrainedConfig) -> Iterator[tuple[PreTrainedModel, bool]]:
    """Yield random copies, each with whether it has all layers and the full width of the model.

    A small model has one copy. A large one has a narrow copy, and another for architectures that need their full width;
    a copy that cannot be built is left out. Layers of every kind are kept, in their order from the first one.
    """
    whole = _skeleton(config)
    if _num_parameters(whole) <= MAX_PARAMETERS:
        yield _filled(config), True
        return
    for hidden_size in (_HIDDEN, 0):
        try:
            small = _shrunk(config, whole, hidden_size)
            if _num_parameters(_skeleton(small)) <= _LIMIT_PARAMETERS:
                yield _filled(small), False
        except Exception as error:  # noqa: BLE001 - sizes depend on each other in some architectures
            _log.debug("no copy with hidden size %d: %s", hidden_size, error)


def _filled(config: PretrainedConfig) -> PreTrainedModel:
    """Return a random model, with weights large enough that each part has a visible effect."""
    import torch

    with torch.random.fork_rng(devices=()), torch.no_grad(), quiet():
        torch.manual_seed(0)
        model = _from_config(config)
        for name, parameter in model.named_parameters():
            std = parameter[:64].std().item() if parameter.ndim == 2 and name.endswith("weight") else 0.0
            if std > 0:
                parameter.mul_(parameter.shape[1] ** -0.5 / std)
    return model


def _from_config(config: PretrainedConfig) -> PreTrainedModel:
    import torch

    from mixcpt.store.models import auto_class

    model: PreTrainedModel = auto_class(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    return model


def _skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model without values."""
    import torch

    with torch.device("meta"), quiet():
        return _from_config(config)


def _num_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _shrunk(config: PretrainedConfig, model: PreTrainedModel, hidden_size: int) -> PretrainedConfig:
    """Return the settings of the text part with fewer layers and tokens, and narrower.

    A `hidden_size` of 0 keeps the model's.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    is_separate = text is config or type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    owner = text if is_separate else config
    data = owner.to_dict()
    part = data if is_separate else data["text_config"]
    count = int(text.num_hidden_layers)
    _cut_layers(
        part, text.attribute_map.get("num_hidden_layers", "num_hidden_layers"), count, _num_needed(model, count)
    )
    _narrow(part)
    if hidden_size:
        _set_hidden_size(part, text, hidden_size)
    return type(owner).from_dict(data)


def _set_hidden_size(data: dict[str, Any], text: PretrainedConfig, hidden_size: int) -> None:
    """Set the hidden size and, in the families that bind them to it, the number of heads."""
    if "expand" in data:  # Mamba 2
        data["num_heads"] = data["expand"] * hidden_size // text.head_dim
    elif "mamba_expand" in data and isinstance(data.get("mamba_d_head"), int) and "mamba_d_ssm" not in data:
        data["mamba_n_heads"] = data["mamba_expand"] * hidden_size // data["mamba_d_head"]
    else:
        data.setdefault("head_dim", text.hidden_size // text.num_attention_heads)
    if data.get("num_key_value_heads") == data.get("num_attention_heads", 0) > _HEADS:
        data |= {"num_key_value_heads": _HEADS, "num_attention_heads": _HEADS}
    data["hidden_size"] = hidden_size


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


def _cut_layers(data: dict[str, Any], key: str, count: int, needed: int) -> None:
    """Keep the first layers in every setting that has one entry per layer or the numbers of layers."""
    for name, value in list(data.items()):
        if isinstance(value, list | str) and len(value) == count and name != "model_type":
            data[name] = value[:needed]
        elif isinstance(value, list) and name.endswith(_ENDINGS_OF_INDICES):
            data[name] = [number for number in value if not isinstance(number, int) or number < needed]
    if key in data:
        data[key] = needed
    if "num_kv_shared_layers" in data:
        data["num_kv_shared_layers"] = 0


def _narrow(data: dict[str, Any]) -> None:
    """Reduce vocabulary, feed-forward width and number of experts."""
    groups = data.get("n_group")
    num_experts = max(_EXPERTS, 2 * groups if isinstance(groups, int) else 0)
    for name, value in list(data.items()):
        if name.startswith("vocab_size"):
            data[name] = _limited(value, _VOCABULARY)
        elif name.endswith("_token_id") and value is not None:
            data[name] = 0
        elif name in _NUMBERS_OF_EXPERTS:
            data[name] = _limited(value, num_experts)
        elif any(part in name for part in _WIDTHS) and "state_size" not in data:  # bound to others in Mamba
            data[name] = _limited(value, _WIDTH)


def _limited(value: Any, maximum: int) -> Any:
    if isinstance(value, list):
        return [_limited(each, maximum) for each in value]
    return min(value, maximum) if isinstance(value, int) else value
