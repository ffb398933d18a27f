"""Reverse KL and the generalised Jensen-Shannon divergence of one chunk of rows, written in place over its logits.

Both compare the student p = softmax(s / T) with a distribution m: with the target q itself (reverse KL), or with
m = beta * q + (1 - beta) * p (GKD, arXiv 2306.13649). With x = log(m / p) and own = 1, or own = 1 - beta,

    D                = [beta * sum(q * (log(q / p) - x))] - own * sum(p * x)
    dD / d(s / T)    = own * p * (sum(p * x) - x)

The corrections of the target change two entries of log(q / p), so they cost no pass either.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixcpt.distill.chunk import ChunkResult, Target, softmax_, target_, weighted
from mixcpt.distill.objective import Objective

_MAX_LOG_RATIO = 80.0
"""exp() of it is finite in fp32; beyond it log(q / p) - x has long been -log(beta) and p * x nothing."""


def mixture_divergence_(
    student: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"],
    spares: Sequence[Float[Tensor, "rows vocab"]],
    labels: Int[Tensor, " rows"],
    objective: Objective,
) -> ChunkResult:
    """Returns what CE and D measure; `student` turns from logits into their gradient, the others are used up.

    `spares` are `num_spares` buffers.
    """
    temperature, index = objective.temperature, labels.unsqueeze(1)
    own = 1 - objective.beta if objective.divergence == "jsd" else 1.0
    q, plain = (
        spares[0],
        spares[-1],
    )  # reverse KL does not need the teacher's probabilities any more where this is written
    target = target_(teacher, q, index, objective)
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, target.top).squeeze(1)
    ratio = teacher.sub_(student, alpha=1 / temperature)
    if objective.divergence == "jsd":
        _correct_(q, target, index)
    normaliser = None if temperature == 1 else softmax_(plain.copy_(student))
    tempered = softmax_(student if temperature == 1 else student.div_(temperature))
    _log_ratio_(ratio, target, index, tempered, at_label / temperature, at_top / temperature)
    from_teacher = _to_mixture_(ratio, q, spares[1], objective.beta) if objective.divergence == "jsd" else 0.0
    mean = ratio.mul_(student).sum(dim=1)
    factor = objective.kl_weight * temperature * own
    _gradient_(student, ratio, mean, target, objective.ce_weight / factor, None if temperature == 1 else plain)
    student.scatter_add_(1, index, torch.full_like(student[:, :1], -objective.ce_weight / factor))
    ce = (tempered if normaliser is None else normaliser) - at_label
    return target.result(ce, temperature**2 * (from_teacher - own * mean), factor)


def num_spares(objective: Objective) -> int:
    """Returns how many buffers there must be beside the logits: q; for `jsd` a product, and the CE's p where T != 1."""
    return 2 + (objective.temperature != 1) if objective.divergence == "jsd" else 1


def _correct_(q: Float[Tensor, "rows vocab"], target: Target, index: Int[Tensor, "rows 1"]) -> None:
    """Turns q0 into the corrected q."""
    change = target.correction
    if change.scale is not None:
        q.mul_(change.scale.unsqueeze(1))
    q.scatter_(1, target.top, change.log_top.exp().unsqueeze(1))
    q.scatter_(1, index, change.log_label.exp().unsqueeze(1))


def _log_ratio_(
    ratio: Float[Tensor, "rows vocab"],
    target: Target,
    index: Int[Tensor, "rows 1"],
    normaliser: Float[Tensor, " rows"],
    at_label: Float[Tensor, " rows"],
    at_top: Float[Tensor, " rows"],
) -> None:
    """Turns `ratio` from (z - s) / T into log(q / p)."""
    change = target.correction
    ratio.add_((normaliser - target.log_normaliser + change.log_scale).unsqueeze(1))
    ratio.scatter_(1, target.top, (change.log_top - at_top + normaliser).unsqueeze(1))
    ratio.scatter_(1, index, (change.log_label - at_label + normaliser).unsqueeze(1))


def _to_mixture_(
    ratio: Float[Tensor, "rows vocab"],
    q: Float[Tensor, "rows vocab"],
    product: Float[Tensor, "rows vocab"],
    beta: float,
) -> Float[Tensor, " rows"]:
    """Returns beta * KL(q || m); `ratio` turns from log(q / p) into log(m / p) = log(1 + beta * (q / p - 1))."""
    above_student = torch.mul(q, ratio.clamp_(max=_MAX_LOG_RATIO), out=product).sum(dim=1)
    ratio.expm1_().mul_(beta).log1p_()
    return beta * (above_student - q.mul_(ratio).sum(dim=1))


def _gradient_(
    student: Float[Tensor, "rows vocab"],
    product: Float[Tensor, "rows vocab"],
    mean: Float[Tensor, " rows"],
    target: Target,
    ce: float,
    plain: Float[Tensor, "rows vocab"] | None,
) -> None:
    """Turns `student` from p into p * mean - product, plus ce times the probabilities of the CE term."""
    slope = weighted(mean, target.correction)
    if target.correction.weight is not None:
        product.mul_(target.correction.weight.unsqueeze(1))
    student.mul_((slope if plain is not None else slope + ce).unsqueeze(1)).sub_(product)
    if plain is not None:
        student.add_(plain, alpha=ce)
