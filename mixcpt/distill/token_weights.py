"""Weights of the tokens in the loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixcpt.mixture.rows import IGNORE_INDEX


def talr_weights(
    cross_entropy: Float[Tensor, " tokens"],
    labels: Int[Tensor, " tokens"],
    segments: Int[Tensor, " tokens"],
    floor: float,
) -> Float[Tensor, " tokens"]:
    """Return the weight max(p^(1 / tau), floor) per true token, as constants: improbable tokens count less.

    tau is the median over the packed documents of their mean cross-entropy; documents without scored tokens are left
    out (docs/algorithms.md#token-weights).

    Args:
        cross_entropy: Cross-entropy per predicted token, in nats.
        labels: The token that each hidden state has to predict, or `IGNORE_INDEX` if it is not scored.
        segments: Number of the packed document that each token belongs to.
        floor: Minimum weight.
    """
    scored = labels != IGNORE_INDEX
    num_segments = int(segments.max()) + 1
    # sum of the cross-entropy and number of scored tokens, per document
    sums = torch.zeros(2, num_segments, dtype=torch.float64, device=cross_entropy.device)
    sums[0].index_add_(0, segments[scored], cross_entropy[scored].double())
    sums[1].index_add_(0, segments[scored], torch.ones_like(cross_entropy[scored], dtype=torch.float64))
    # tau = median of the mean cross-entropy
    means = (sums[0] / sums[1])[sums[1] > 0]
    if len(means) == 0:
        return torch.ones_like(cross_entropy)
    tau = means.median().clamp_min(torch.finfo(torch.float32).tiny)
    # p^(1 / tau) = exp(-cross_entropy / tau)
    return torch.exp(-cross_entropy / tau.to(cross_entropy.dtype)).clamp_min(floor)
