"""Body and head of a language model: hidden states of packed rows, and the head apart, so that full logits are never
computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.errors import ModelError

_SEGMENTS = (6, 4)
"""Tokens of the two documents in the check's packed row."""
_TOLERANCE = 1e-3
"""Maximum difference of logits. A leak between packed documents changes them by 0.1 to 1, fp32 rounding by 1e-6."""
CausalModel: TypeAlias = PreTrainedModel | PeftModel
"""A causal language model, or one with adapters around it."""


@dataclass(frozen=True)
class Head:
    """logits = soft_cap * tanh(logit_scale * hidden @ weight.T / soft_cap); without a soft cap, the scaled product."""

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
    """Return the head of a causal language model; raise `ModelError` if it has none, or one with a bias."""
    layer = model.get_output_embeddings()
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output layer", "only causal language models can be trained")
    if getattr(layer, "bias", None) is not None:
        raise ModelError(
            f"the output layer of {type(model).__name__} has a bias, which the fused loss does not support",
            "choose a model whose lm_head has no bias",
        )
    config = model.config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, float(scale), float(getattr(config, "final_logit_softcapping", None) or 0.0))


def hidden_states(
    model: CausalModel, input_ids: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Return the last hidden states of packed rows; a document's tokens do not attend to other documents.

    transformers derives the borders of the documents from restarting `position_ids`, but only without an attention mask
    and without a key-value cache.
    """
    output = model.get_decoder()(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


def check_model(model: PreTrainedModel) -> None:
    """Raise `ModelError` if the model mixes packed documents, or our head computes other logits than the model.

    A small packed row shows both. Training such a model would not minimise the intended loss.
    """
    name = type(model).__name__
    try:
        with torch.no_grad(), _evaluating(model):
            packed, separate, fused, own = _probe(model)
    except TypeError as error:
        raise ModelError(f"{name} does not take position_ids, which packed rows need: {error}") from error
    bound = _TOLERANCE * max(1.0, own.abs().max().item())
    if (packed - separate).abs().max() > bound:
        raise ModelError(
            f"{name} lets the documents of a packed row see each other",
            "choose an architecture whose attention transformers masks from position_ids, such as Llama or Qwen",
        )
    if (fused - own).abs().max() > bound:
        raise ModelError(
            f"{name} computes its logits in an unsupported way: not a product, scaled or soft-capped",
            "choose another model",
        )


def _probe(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the hidden states, packed and separate, and the logits by our head and by the model's own head."""
    positions = torch.cat([torch.arange(length) for length in _SEGMENTS]).unsqueeze(0).to(model.device)
    head = head_of(model)
    vocab = head.weight.shape[0]
    ids = (7 * torch.arange(sum(_SEGMENTS), device=model.device).unsqueeze(0) + 5) % vocab
    packed = hidden_states(model, ids, positions)
    parts = zip(ids.split(_SEGMENTS, dim=1), positions.split(_SEGMENTS, dim=1), strict=True)
    separate = torch.cat([hidden_states(model, part, position) for part, position in parts], dim=1)
    fused = head.logits(packed[0].float(), out=packed.new_empty(sum(_SEGMENTS), vocab, dtype=torch.float32))
    own = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    return packed, separate, fused, own


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Disable dropout within the context."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
