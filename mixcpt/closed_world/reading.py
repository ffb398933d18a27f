"""Whether a model reads: how much better it predicts what a document has already said in other words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixcpt.closed_world.documents import stranger_documents
from mixcpt.store.models import ModelRef, load_model, load_tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

_FACTS_PER_STRANGER = 3


def reading_losses(model: ModelRef, *, seed: int, num_strangers: int) -> dict[str, float]:
    """Returns the mean loss, in nats, on strangers' values: `first_loss` at first mention, `second_loss` at second.

    A model that guesses stays at log(30), about 3.4, in both; one that reads falls far below in the second.
    """
    import torch

    tokenizer = load_tokenizer(model)
    network = load_model(model)
    stop = tokenizer.get_vocab()["."]
    values = []
    for text in stranger_documents(seed, num_strangers):
        input_ids = torch.tensor(tokenizer(text)["input_ids"])
        ends = torch.nonzero(input_ids.eq(stop)).flatten()[1:]  # the first sentence says what kind of thing it is
        values.append(_losses(network, input_ids)[ends - 2])  # the value stands before the full stop; losses start at 1
    first, second = torch.stack(values).split(_FACTS_PER_STRANGER, dim=1)
    return {"first_loss": first.mean().item(), "second_loss": second.mean().item()}


def _losses(network: PreTrainedModel, input_ids: Tensor) -> Float[Tensor, " tokens"]:
    """Returns the loss on each token but the first."""
    import torch

    with torch.inference_mode():
        logits = network(input_ids=input_ids[None], use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, input_ids[1:], reduction="none")
