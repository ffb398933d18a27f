"""Measure whether a model reads: its loss on facts that a document states a second time in other words."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from mixcpt.closed_world.documents import stranger_documents
from mixcpt.store.models import ModelRef, load_model, load_tokenizer

_FACTS_PER_STRANGER = 3


def reading_losses(model: ModelRef, *, seed: int, num_strangers: int) -> dict[str, float]:
    """Return the mean loss in nats on the values of one-off entities, at the first and at the second mention.

    A model that guesses has about log(30) = 3.4 in both `first_loss` and `second_loss`; a model that reads has a much
    lower `second_loss`.
    """
    tokenizer = load_tokenizer(model)
    network = load_model(model)
    stop = tokenizer.get_vocab()["."]
    values = []
    for text in stranger_documents(seed, num_strangers):
        input_ids = torch.tensor(tokenizer(text)["input_ids"])
        ends = torch.nonzero(input_ids.eq(stop)).flatten()[1:]  # the first sentence states the kind of the entity
        # The value precedes the full stop, and losses begin with the second token.
        values.append(_losses(network, input_ids)[ends - 2])
    first, second = torch.stack(values).split(_FACTS_PER_STRANGER, dim=1)
    return {"first_loss": first.mean().item(), "second_loss": second.mean().item()}


def _losses(network: PreTrainedModel, input_ids: Tensor) -> Float[Tensor, " tokens"]:
    """Return the loss on every token except the first."""
    with torch.inference_mode():
        logits = network(input_ids=input_ids[None], use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, input_ids[1:], reduction="none")
