"""How a teacher's distribution becomes the student's target: one scale and two corrections per row.

With q0 the teacher's probabilities, y the true token and a the teacher's first choice, every target is
    q = scale * q0 + at_label * onehot(y) + at_top * onehot(a),
so that a new transform costs at most one more pass over the vocabulary, and none where the scale is 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Choices:
    """What the teacher holds of the true token (label) and of its own first choice (top), at the KL's temperature."""

    q_label: Float[Tensor, " rows"]
    q_top: Float[Tensor, " rows"]
    log_label: Float[Tensor, " rows"]
    """log(q_label), taken from the logits: finite where the probability is rounded to 0."""
    log_top: Float[Tensor, " rows"]
    is_top: Bool[Tensor, " rows"]
    """Whether the teacher's first choice is the true token."""


@dataclass(frozen=True)
class Correction:
    """The numbers of the formula above; the target must still sum to 1."""

    at_label: Float[Tensor, " rows"]
    at_top: Float[Tensor, " rows"]
    log_label: Float[Tensor, " rows"]
    """log(q) of the true token: 0 < q, which a sum of probabilities could not promise."""
    log_top: Float[Tensor, " rows"]
    """log(q) of the teacher's first choice."""
    scale: Float[Tensor, " rows"] | None = None
    """None stands for 1 and saves a pass."""
    weight: Float[Tensor, " rows"] | None = None
    """How much the row's divergence counts; None stands for 1 and saves two passes."""

    @property
    def log_scale(self) -> Float[Tensor, " rows"]:
        """Returns log(scale), finite where the scale is 0."""
        if self.scale is None:
            return torch.zeros_like(self.at_label)
        return self.scale.clamp_min(torch.finfo(self.scale.dtype).tiny).log()


Transform = Callable[[Choices, float], Correction]
"""From the teacher's two probabilities and `Objective.margin`."""


def keep(choices: Choices, margin: float) -> Correction:
    """Returns the correction that leaves the teacher as it is: plain distillation."""
    nothing = torch.zeros_like(choices.q_label)
    return Correction(nothing, nothing, choices.log_label, choices.log_top)


def swap(choices: Choices, margin: float) -> Correction:
    """Returns the correction that exchanges the logits of y and a: logit swap self-distillation (Mix-CPT, 2407.10804).

    The swap permutes two logits, so the normaliser stays and q = q0 + d * (onehot(y) - onehot(a)), d = q0[a] - q0[y].
    """
    gap = choices.q_top - choices.q_label
    return Correction(gap, -gap, choices.log_top, choices.log_label)


def mix_in(choices: Choices, margin: float) -> Correction:
    """Returns q = (1 - margin) * q0 + margin * onehot(y), the same share in every row (METHODS 1.2, `margin`)."""
    return _mixed(choices, torch.full_like(choices.q_label, margin))


def lead(choices: Choices, margin: float) -> Correction:
    """Returns q = (1 - m) * q0 + m * onehot(y) with the m of each row that `margin` asks for ("minifinetuning").

    Where the teacher is wrong, m = (d + margin) / (1 + d) with d = q0[a] - q0[y] makes q[y] = q[a] + margin; where it
    is right, q[y] = min(1, q0[y] + margin). arXiv 2506.15702, read in NVIDIA's own `MFTLoss` (Model-Optimizer).
    """
    gap = choices.q_top - choices.q_label
    tiny = torch.finfo(gap.dtype).tiny
    right = (margin / (1 - choices.q_label).clamp_min(tiny)).clamp_max(1)
    return _mixed(choices, torch.where(choices.is_top, right, (gap + margin) / (1 + gap)))


def drop_wrong(choices: Choices, margin: float) -> Correction:
    """Returns the teacher as it is where its first choice is the true token, and no teacher elsewhere."""
    return replace(keep(choices, margin), weight=choices.is_top.to(choices.q_label.dtype))


def _mixed(choices: Choices, share: Float[Tensor, " rows"]) -> Correction:
    """Returns q = (1 - share) * q0 + share * onehot(y)."""
    nothing = torch.zeros_like(share)
    correction = Correction(share, nothing, nothing, nothing, 1 - share)
    log_label = torch.logaddexp(correction.log_scale + choices.log_label, share.log())
    log_top = torch.where(choices.is_top, log_label, correction.log_scale + choices.log_top)
    return replace(correction, log_label=log_label, log_top=log_top)


TRANSFORMS: dict[str, Transform] = {
    "none": keep,
    "swap": swap,
    "margin": mix_in,
    "threshold": lead,
    "mask": drop_wrong,
}


def negative_entropy_shift(correction: Correction, choices: Choices) -> Float[Tensor, " rows"]:
    """Returns what the two corrections add to sum(q log q), beyond scale * (log(scale) + sum(q0 log q0)).

    Where the true token is the teacher's first choice, both corrections meet in one entry.
    """
    scale = 1.0 if correction.scale is None else correction.scale
    label, top = scale * choices.q_label, scale * choices.q_top
    at_label = torch.where(choices.is_top, correction.at_label + correction.at_top, correction.at_label)
    at_top = torch.where(choices.is_top, 0.0, correction.at_top)
    return _x_log_x(label + at_label) - _x_log_x(label) + _x_log_x(top + at_top) - _x_log_x(top)


def _x_log_x(probability: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return torch.xlogy(probability, probability)
