"""The mean loss of a model per answer token, computed in batches."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
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

    Every sample must have an answer token. `on_batch` is called after every batch with its number of samples.
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
    labels = [[IGNORE_INDEX] * len(sample.prompt_ids) + sample.response_ids for sample in samples]
    input_ids = _padded([sample.input_ids for sample in samples], 0)
    attention_mask = _padded([[1] * sample.num_tokens for sample in samples], 0)
    device = model.device
    logits = model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False).logits
    targets = _padded(labels, IGNORE_INDEX)[:, 1:].to(device)
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), targets, ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1)


def _padded(sequences: Sequence[Sequence[int]], value: int) -> Int[Tensor, "samples seq"]:
    return pad_sequence([torch.tensor(sequence) for sequence in sequences], batch_first=True, padding_value=value)
