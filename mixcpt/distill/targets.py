"""How a teacher's distribution becomes the student's target: one scale and two corrections per row.

With q0 the teacher's probabilities, y the true token and a the teacher's first choice, every target is
    q = scale * q0 + at_label * onehot(y) + at_top * onehot(a),
so that a new transform costs no further pass over the vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TransformName = Literal["none", "swap"]


@dataclass(frozen=True)
class Correction:
    """The numbers of the formula above; the target must still sum to 1."""

    at_label: Float[Tensor, " rows"]
    at_top: Float[Tensor, " rows"]
    scale: Float[Tensor, " rows"] | None = None
    """None stands for 1 and saves a pass."""


Transform = Callable[[Float[Tensor, " rows"], Float[Tensor, " rows"]], Correction]
"""From the teacher's probabilities of the true token and of its first choice."""


def keep(q_label: Float[Tensor, " rows"], q_top: Float[Tensor, " rows"]) -> Correction:
    """Returns the correction that leaves the teacher as it is: plain distillation."""
    nothing = torch.zeros_like(q_label)
    return Correction(nothing, nothing)


def swap(q_label: Float[Tensor, " rows"], q_top: Float[Tensor, " rows"]) -> Correction:
    """Returns the correction that exchanges the logits of y and a: logit swap self-distillation (Mix-CPT, 2407.10804).

    The swap permutes two logits, so the normaliser stays and q = q0 + d * (onehot(y) - onehot(a)), d = q0[a] - q0[y].
    """
    gap = q_top - q_label
    return Correction(gap, -gap)


TRANSFORMS: dict[str, Transform] = {"none": keep, "swap": swap}


def negative_entropy_shift(
    correction: Correction,
    q_label: Float[Tensor, " rows"],
    q_top: Float[Tensor, " rows"],
    is_top: Bool[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    """Returns what the two corrections add to sum(q log q), beyond scale * (log(scale) + sum(q0 log q0)).

    Where the true token is the teacher's first choice (`is_top`), both corrections meet in one entry.
    """
    scale = 1.0 if correction.scale is None else correction.scale
    label, top = scale * q_label, scale * q_top
    at_label = torch.where(is_top, correction.at_label + correction.at_top, correction.at_label)
    at_top = torch.where(is_top, 0.0, correction.at_top)
    return _x_log_x(label + at_label) - _x_log_x(label) + _x_log_x(top + at_top) - _x_log_x(top)


def _x_log_x(probability: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return torch.xlogy(probability, probability)
