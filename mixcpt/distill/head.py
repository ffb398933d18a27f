"""The last layer of a language model, separate from the model, so that full logits are never computed."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.errors import ModelError

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
    """Return the head of a causal language model.

    Raises:
        ModelError: If the model has no output layer, or one with a bias.
    """
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
