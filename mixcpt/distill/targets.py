"""Target distributions made from a teacher's distribution by one scale and two corrections per row.

With q0 the teacher's probabilities, y the true token and a the teacher's first choice, every target is

    q = scale * q0 + at_label * onehot(y) + at_top * onehot(a)

so a transform costs at most one more pass over the vocabulary, and none if the scale is 1.
docs/algorithms.md#label-corrected-teachers derives the transforms.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerRow = Float[Tensor, " rows"]
"""One number per row; a row is a scored token."""
Logits = Float[Tensor, "rows vocab"]
Labels = Int[Tensor, " rows"]
"""The true token of every row."""
Column = Int[Tensor, "rows 1"]
"""One token per row, in the shape that `gather` needs."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The teacher's probabilities of the true token (label) and of its first choice (top), at the KL's temperature."""

    q_label: PerRow
    """Value of q0[y]."""
    q_top: PerRow
    """Value of q0[a]."""
    log_label: PerRow
    """Value of log(q0[y]), computed from the logits: finite even if the probability rounds to 0."""
    log_top: PerRow
    """Value of log(q0[a])."""
    is_top: Bool[Tensor, " rows"]
    """Whether the teacher's first choice is the true token: a = y."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Terms of the formula above, one per row; the target still sums to 1."""

    at_label: PerRow
    at_top: PerRow
    log_label: PerRow
    """Value of log(q[y]), finite even if q[y] rounds to 0."""
    log_top: PerRow
    """Value of log(q[a])."""
    scale: PerRow | None = None
    """Factor of q0; None means 1 and saves a pass."""
    weight: PerRow | None = None
    """Factor of the row's divergence in the loss; None means 1 and saves two passes."""

    @property
    def log_scale(self) -> PerRow:
        """Return log(scale), finite even if the scale is 0."""
        if self.scale is None:
            return torch.zeros_like(self.at_label)
        return self.scale.clamp_min(torch.finfo(self.scale.dtype).tiny).log()


Transform = Callable[[Choices, float], Correction]
"""Function of the teacher's two probabilities and `ObjectiveConfig.margin`."""


def keep(choices: Choices, margin: float) -> Correction:
    """Return the correction for q = q0: plain distillation."""
    zero = torch.zeros_like(choices.q_label)
    return Correction(at_label=zero, at_top=zero, log_label=choices.log_label, log_top=choices.log_top)


def swap(choices: Choices, margin: float) -> Correction:
    """Return the correction that exchanges the logits of y and a: logit swap self-distillation (Mix-CPT, 2407.10804).

    The swap permutes two logits, so the normaliser stays and q = q0 + d * (onehot(y) - onehot(a)), d = q0[a] - q0[y].
    """
    gap = choices.q_top - choices.q_label  # d
    return Correction(at_label=gap, at_top=-gap, log_label=choices.log_top, log_top=choices.log_label)


def mix_in(choices: Choices, margin: float) -> Correction:
    """Return q = (1 - margin) * q0 + margin * onehot(y), the same share in every row."""
    return _mixed(choices, torch.full_like(choices.q_label, margin))


def lead(choices: Choices, margin: float) -> Correction:
    """Return q = (1 - m) * q0 + m * onehot(y) with the smallest m per row that satisfies `margin` ("minifinetuning").

    If the teacher is wrong, m = (d + margin) / (1 + d) with d = q0[a] - q0[y] makes q[y] = q[a] + margin; if it is
    right, q[y] = min(1, q0[y] + margin). arXiv 2506.15702, taken from NVIDIA's own `MFTLoss` (Model-Optimizer).
    """
    gap = choices.q_top - choices.q_label  # d
    tiny = torch.finfo(gap.dtype).tiny
    # a = y: (1 - m) * q0[y] + m = q0[y] + margin, hence m = margin / (1 - q0[y])
    share_if_right = (margin / (1 - choices.q_label).clamp_min(tiny)).clamp_max(1)
    share_if_wrong = (gap + margin) / (1 + gap)
    return _mixed(choices, torch.where(choices.is_top, share_if_right, share_if_wrong))


def drop_wrong(choices: Choices, margin: float) -> Correction:
    """Return q = q0 if the teacher's first choice is the true token; otherwise the row's divergence has weight 0."""
    return replace(keep(choices, margin), weight=choices.is_top.to(choices.q_label.dtype))


def _mixed(choices: Choices, share: PerRow) -> Correction:
    """Return the correction for q = (1 - share) * q0 + share * onehot(y)."""
    zero = torch.zeros_like(share)
    correction = Correction(at_label=share, at_top=zero, log_label=zero, log_top=zero, scale=1 - share)
    # log(q[y]) = log((1 - share) * q0[y] + share)
    log_label = torch.logaddexp(correction.log_scale + choices.log_label, share.log())
    # log(q[a]) = log((1 - share) * q0[a]), or log(q[y]) if a = y
    log_top = torch.where(choices.is_top, log_label, correction.log_scale + choices.log_top)
    return replace(correction, log_label=log_label, log_top=log_top)


TRANSFORMS: dict[str, Transform] = {"none": keep, "swap": swap, "margin": mix_in, "threshold": lead, "mask": drop_wrong}


def negative_entropy_shift(correction: Correction, choices: Choices) -> PerRow:
    """Return the change of sum(q log q) by the two corrections, relative to the scaled teacher scale * q0.

    If a = y, both corrections apply to the same entry.
    """
    scale = 1.0 if correction.scale is None else correction.scale
    # entries y and a of scale * q0
    label, top = scale * choices.q_label, scale * choices.q_top
    # corrections of entries y and a; if a = y all of it at y
    at_label = torch.where(choices.is_top, correction.at_label + correction.at_top, correction.at_label)
    at_top = torch.where(choices.is_top, 0.0, correction.at_top)
    # x log x after minus before, at y and at a
    return _x_log_x(label + at_label) - _x_log_x(label) + _x_log_x(top + at_top) - _x_log_x(top)


def _x_log_x(probability: PerRow) -> PerRow:
    return torch.xlogy(probability, probability)
