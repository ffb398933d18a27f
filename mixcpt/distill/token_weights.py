"""How much each token's loss counts."""

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
    """Returns p^(1 / tau) of each true token, at least `floor`, as constants: what is improbable counts less.

    tau is the median over the packed documents of their mean cross-entropy (METHODS 3, `talr`); documents in which
    nothing is scored do not count.

    Args:
        cross_entropy: In nats, of each token that is predicted.
        labels: The token that each hidden state has to predict, `IGNORE_INDEX` where it is not scored.
        segments: Number of the packed document that each token belongs to.
        floor: Least weight.
    """
    scored = labels != IGNORE_INDEX
    num_segments = int(segments.max()) + 1
    sums = torch.zeros(2, num_segments, dtype=torch.float64, device=cross_entropy.device)
    sums[0].index_add_(0, segments[scored], cross_entropy[scored].double())
    sums[1].index_add_(0, segments[scored], torch.ones_like(cross_entropy[scored], dtype=torch.float64))
    means = (sums[0] / sums[1])[sums[1] > 0]
    if len(means) == 0:
        return torch.ones_like(cross_entropy)
    tau = means.median().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.exp(-cross_entropy / tau.to(cross_entropy.dtype)).clamp_min(floor)
