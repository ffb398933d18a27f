"""Body and head of a language model: hidden states of packed rows, and the head apart, so that full logits are never
computed."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from mixcpt.distill.balance import balance_of
from mixcpt.distill.reading import decode, read_one_document, reads_one_document
from mixcpt.errors import ModelError

_log = logging.getLogger("mixcpt.distill")
_SEGMENTS = (6, 4)
"""Tokens of the two documents in the check's packed row."""
_TOLERANCE = 1e-3
"""Maximum difference of logits. A leak between packed documents changes them by 0.1 to 1, fp32 rounding by 1e-6."""
_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Settings of the factors, divisors and bounds of logits, by the names that architectures give them."""
_BIAS_COLUMNS = 8
"""Columns that a bias adds: it and zeros, because products in bf16 need multiples of 8."""
CausalModel: TypeAlias = PreTrainedModel | PeftModel
"""A causal language model, or one with adapters around it."""


@dataclass(frozen=True)
class Head:
    """logits = soft_cap * tanh(logit_scale * hidden @ weight.T / soft_cap); without a soft cap, the scaled product.

    The bias of a head is one more column of `weight`, and `hidden_states` then appends a one to every state.
    """

    weight: Float[Tensor, "vocab hidden"]
    logit_scale: float = 1.0
    """Factor of the logits (Cohere, Granite)."""
    soft_cap: float = 0.0
    """Bound of the logits (Gemma); 0 means no soft cap."""

    def to(self, dtype: torch.dtype) -> "Head":
        """Return the head with its weight in another type, detached; the head itself if the type is the same."""
        return self if self.weight.dtype == dtype else replace(self, weight=self.weight.detach().to(dtype))

    def logits(
        self, hidden: Float[Tensor, "rows hidden"], out: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Compute the logits into `out` and return it; the product runs in the type of `hidden`."""
        weight = self.weight.to(hidden.dtype)
        if hidden.dtype == out.dtype:
            torch.mm(hidden, weight.T, out=out)
        else:
            out.copy_(hidden @ weight.T)
        if self.logit_scale != 1:
            out.mul_(self.logit_scale)
        if self.soft_cap:
            out.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return out


def head_of(model: CausalModel) -> Head:
    """Return the head of a causal language model; raise `ModelError` if it has none, or one without a weight."""
    layer = model.get_output_embeddings()
    if layer is None or not isinstance(getattr(layer, "weight", None), Tensor):
        raise ModelError(f"{type(model).__name__} has no output layer", "only causal language models can be trained")
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if bias is not None:
        weight = torch.cat([weight, functional.pad(bias.unsqueeze(1), (0, _BIAS_COLUMNS - 1))], dim=1)
    return Head(weight, _logit_scale(model), _soft_cap(model.config.get_text_config()))


def _logit_scale(model: CausalModel) -> float:
    config = model.config.get_text_config()
    names = [name for name in _FACTORS if name != "logit_scale" or hasattr(_own(model), name)]  # not in Aya Vision
    scale = math.prod(float(getattr(config, name, None) or 1.0) for name in names)
    divisor = math.prod(float(getattr(config, name, None) or 1.0) for name in _DIVISORS)
    return scale * divisor if str(config.model_type).startswith("hyperclovax") else scale / divisor


def _soft_cap(config: Any) -> float:
    return next((float(cap) for name in _SOFT_CAPS if (cap := getattr(config, name, None))), 0.0)


def decoder_of(model: CausalModel) -> nn.Module:
    """Return the part of a model that computes the last hidden states of text."""
    own = _own(model)
    decoder: Any = own.get_decoder()
    if not isinstance(decoder, PreTrainedModel):  # ModernBERT names its head `decoder`
        decoder = own
    if decoder is own or decoder.get_output_embeddings() is not None:  # Llama 4 returns the whole model
        inner = (getattr(decoder, name, None) for name in (decoder.base_model_prefix, "model"))
        return next((part for part in inner if isinstance(part, nn.Module)), decoder)
    return cast(nn.Module, decoder)


def transform_of(model: CausalModel) -> nn.Module | None:
    """Return the layers between the decoder and the head, which few architectures have (ModernBERT)."""
    own = _own(model)
    layers, head = getattr(own, "lm_head", None), own.get_output_embeddings()
    if not isinstance(layers, nn.Module) or any(module is head for module in layers.modules()):
        return None
    return layers


def _own(model: CausalModel) -> Any:
    """Return the model without adapters around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def hidden_states(
    model: CausalModel, input_ids: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Return the last hidden states of packed rows; a document's tokens do not attend to other documents."""
    return _for_head(model, decode(decoder_of(model), input_ids, position_ids).hidden)


def states_and_balance(
    model: CausalModel,
    input_ids: Int[Tensor, "batch seq"],
    position_ids: Int[Tensor, "batch seq"],
    is_text: Bool[Tensor, "batch seq"],
) -> tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, ""] | None]:
    """Return the hidden states, and the routers' balancing loss over the tokens of `is_text`, with its coefficient.

    The loss is None if the configuration of the model does not turn it on (`output_router_logits`).
    """
    if (balance := balance_of(model)) is None:
        return hidden_states(model, input_ids, position_ids), None
    decoded = decode(decoder_of(model), input_ids, position_ids, with_routers=True)
    mask = is_text.long()
    if decoded.is_token is not None:
        mask = torch.zeros_like(decoded.is_token).masked_scatter(decoded.is_token.bool(), mask.flatten())
    return _for_head(model, decoded.hidden), balance(decoded.router_logits, mask)


def _for_head(model: CausalModel, hidden: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq width"]:
    """Apply the layers in front of the head, and append the ones that a bias of the head needs."""
    if (transform := transform_of(model)) is not None:
        hidden = transform(hidden)
    if getattr(model.get_output_embeddings(), "bias", None) is None:
        return hidden
    columns = hidden.new_zeros(*hidden.shape[:-1], _BIAS_COLUMNS)
    columns[..., 0] = 1
    return torch.cat([hidden, columns], dim=-1)


def packing_leaks(model: PreTrainedModel) -> bool:
    """Return whether the documents of a packed row see each other, or the decoder does not take `position_ids`."""
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return True  # chunks begin at the start of the row, not of the document
    try:
        with torch.no_grad(), _evaluating(model):
            ids, positions = _probe_row(model)
            decoder = decoder_of(model)
            packed = decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
            parts = zip(ids.split(_SEGMENTS, dim=1), positions.split(_SEGMENTS, dim=1), strict=True)
            apart = [
                decoder(input_ids=part, position_ids=position, use_cache=False).last_hidden_state
                for part, position in parts
            ]
            separate = torch.cat(apart, dim=1)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return True
    return not bool((packed - separate).abs().max() <= _TOLERANCE * max(1.0, packed.abs().max().item()))


def check_model(model: PreTrainedModel) -> None:
    """Raise `ModelError` if our head computes other logits than the model; it would not minimise the intended loss.

    If the model mixes packed documents, it reads one document per row from now on.
    """
    name = type(model).__name__
    head_of(model)  # raises if there is none
    if not reads_one_document(decoder_of(model)) and packing_leaks(model):
        read_one_document(decoder_of(model))
        _log.info("%s mixes the documents of a packed row: it reads one document per row, with padding", name)
    try:
        with torch.no_grad(), _evaluating(model):
            fused, own = _both_logits(model)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelError(f"{name} does not read rows of plain text: {error}", "choose another model") from error
    if not bool((fused - own).abs().max() <= _TOLERANCE * max(1.0, own.abs().max().item())):
        raise ModelError(
            f"{name} computes its logits in an unsupported way: not a product, scaled or soft-capped",
            "choose another model",
        )


def set_packing(model: CausalModel, packing: Literal["auto", "packed", "one_document"]) -> None:
    """Make a checked model read packed rows as a setting demands.

    Raises:
        ModelError: If the setting is `packed` and the model mixes the documents of a packed row.
    """
    if packing == "one_document":
        read_one_document(decoder_of(model))
    elif packing == "packed" and reads_one_document(decoder_of(model)):
        raise ModelError(
            f"pretrain.packing is packed, but {type(model).__name__} mixes the documents of a packed row",
            "set pretrain.packing to auto or one_document",
        )


def read_alike(model: CausalModel, other: CausalModel) -> None:
    """Make `other` read packed rows as `model` does; both have the same architecture."""
    if reads_one_document(decoder_of(model)):
        read_one_document(decoder_of(other))


def _probe_row(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return tokens and positions of a row with two documents."""
    positions = torch.cat([torch.arange(length) for length in _SEGMENTS]).unsqueeze(0).to(model.device)
    vocab = model.get_output_embeddings().weight.shape[0]
    ids = (7 * torch.arange(sum(_SEGMENTS), device=model.device).unsqueeze(0) + 5) % vocab
    return ids, positions


def _both_logits(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return the logits of one document by our head and by the model's own head."""
    head, (ids, _) = head_of(model), _probe_row(model)
    hidden = hidden_states(model, ids, torch.arange(ids.shape[1], device=ids.device).unsqueeze(0))[0]
    fused = head.logits(hidden.float(), out=hidden.new_empty(*hidden.shape[:1], len(head.weight), dtype=torch.float32))
    return fused, model(input_ids=ids).logits[0]


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Disable dropout within the context."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
