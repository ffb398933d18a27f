"""Hidden states of packed rows, and a check that a model can be trained on them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.distill.head import CausalModel, head_of
from mixcpt.errors import ModelError

_SEGMENTS = (6, 4)
"""Tokens of the two documents in the check's packed row."""
_TOLERANCE = 1e-3
"""Maximum difference of logits. A leak between packed documents changes them by 0.1 to 1, fp32 rounding by 1e-6."""


def hidden_states(
    model: CausalModel, input_ids: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq hidden"]:
    """Return the last hidden states of packed rows; a document's tokens do not attend to other documents.

    transformers derives the borders of the documents from restarting `position_ids`, but only without an attention mask
    and without a key-value cache.
    """
    states: Tensor = model.get_decoder()(
        input_ids=input_ids, position_ids=position_ids, use_cache=False
    ).last_hidden_state
    return states


def check_model(model: PreTrainedModel) -> None:
    """Check on a small packed row that the model separates documents, and that our head computes the model's logits.

    Raises:
        ModelError: If either check fails; training such a model would not minimise the intended loss.
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
