"""A language model without its head, and the proof that it can be trained on packed rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.distill.head import CausalModel, head_of
from mixcpt.errors import ModelError

_SEGMENTS = (6, 4)
"""Lengths of the two documents of the probe."""
_TOLERANCE = 1e-3
"""A leak between packed documents moves logits by 0.1 to 1, rounding in fp32 by 1e-6."""


def hidden_states(
    model: CausalModel, input_ids: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Returns the last hidden states of packed rows, whose documents do not see each other.

    transformers reads the borders of the documents from restarting `position_ids`, but only where there is neither an
    attention mask nor a key-value cache.
    """
    states: Tensor = model.get_decoder()(
        input_ids=input_ids, position_ids=position_ids, use_cache=False
    ).last_hidden_state
    return states


def check_model(model: PreTrainedModel) -> None:
    """Proves on a probe that the model keeps packed documents apart and that its head is understood.

    Raises:
        ModelError: If it does not, or is not; such a model would be trained on something else than intended.
    """
    name = type(model).__name__
    try:
        with torch.no_grad(), _evaluating(model):
            packed, apart, fused, own = _probe(model)
    except TypeError as error:
        raise ModelError(f"{name} does not take position_ids, which packed rows need: {error}") from error
    bound = _TOLERANCE * max(1.0, own.abs().max().item())
    if (packed - apart).abs().max() > bound:
        raise ModelError(
            f"{name} lets the documents of a packed row see each other",
            "choose an architecture whose attention transformers masks from position_ids, such as Llama or Qwen",
        )
    if (fused - own).abs().max() > bound:
        raise ModelError(
            f"{name} computes its logits in a way that mixcpt does not know (neither scaled nor soft-capped)",
            "choose another model",
        )


def _probe(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns hidden states packed and apart, and logits by our head and by the model's own."""
    positions = torch.cat([torch.arange(length) for length in _SEGMENTS]).unsqueeze(0).to(model.device)
    head = head_of(model)
    vocab = head.weight.shape[0]
    ids = (7 * torch.arange(sum(_SEGMENTS), device=model.device).unsqueeze(0) + 5) % vocab
    packed = hidden_states(model, ids, positions)
    parts = zip(ids.split(_SEGMENTS, dim=1), positions.split(_SEGMENTS, dim=1), strict=True)
    apart = torch.cat([hidden_states(model, part, position) for part, position in parts], dim=1)
    fused = head.logits(packed[0].float(), out=packed.new_empty(sum(_SEGMENTS), vocab, dtype=torch.float32))
    own = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    return packed, apart, fused, own


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switches dropout off for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
