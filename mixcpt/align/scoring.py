"""The mean loss of a model per answer token, computed in batches."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from mixcpt.align.chat import Encoded
from mixcpt.mixture.rows import IGNORE_INDEX

MAX_LOGITS = 1 << 25
"""Maximum number of logits in one forward: 128 MiB in fp32."""


def response_losses(
    model: PreTrainedModel, samples: Sequence[Encoded], on_batch: Callable[[int], None] = lambda num_samples: None
) -> Float[np.ndarray, " samples"]:
    """Return the mean negative log-likelihood per answer token of every sample, in nats.

    Samples of similar length share a batch, and the longest come first, so a lack of memory is detected immediately.

    Args:
        model: Model to evaluate.
        samples: Samples with at least one answer token.
        on_batch: Function called after every batch with its number of samples.
    """
    losses = np.empty(len(samples))
    lengths = [sample.num_tokens for sample in samples]
    for batch in _batches(lengths, max_tokens=MAX_LOGITS // model.config.get_text_config().vocab_size):
        losses[batch] = _batch_losses(model, [samples[index] for index in batch]).cpu().numpy()
        on_batch(len(batch))
    return losses


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of samples with a sum of padded lengths of at most `max_tokens`, or of one longer sample."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def _batch_losses(model: PreTrainedModel, samples: Sequence[Encoded]) -> Float[Tensor, " samples"]:
    longest = max(sample.num_tokens for sample in samples)
    input_ids = torch.zeros(len(samples), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    for row, sample in enumerate(samples):
        input_ids[row, : sample.num_tokens] = torch.tensor(sample.input_ids)
        attention_mask[row, : sample.num_tokens] = 1
        labels[row, len(sample.prompt_ids) : sample.num_tokens] = torch.tensor(sample.response_ids)
    device = model.device
    logits = model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False).logits
    targets = labels[:, 1:].to(device)
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), targets, ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1)
