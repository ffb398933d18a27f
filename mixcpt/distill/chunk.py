"""Loss and gradient of one chunk of rows, written in place over its logits.

The gradient with respect to the student's logits s, for teacher logits z and temperature T, is (METHODS 1.2)

    ce * p + pull * p_T - pull * scale * q0 - (ce + pull * at_label) * onehot(y) - pull * at_top * onehot(a)

with p = softmax(s), p_T = softmax(s / T), q0 = softmax(z / T), pull = kl_weight * T; scale, at_label and at_top come
from the target's `Correction`. Its dense part is returned divided by a factor that the next matrix product takes in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mixcpt.distill.objective import Objective
from mixcpt.distill.targets import TRANSFORMS, Correction, negative_entropy_shift

MEASURES = ("tokens", "ce", "kl", "correct", "gap")
"""Per row: 1, CE, T^2 KL, whether the teacher's first choice is right, d = q0[a] - q0[y]."""


@dataclass(frozen=True)
class ChunkResult:
    measures: Float[Tensor, "rows measures"]
    """In the order of `MEASURES`."""
    factor: float
    """The gradient is the buffer's content times this."""


def cross_entropy_(student: Float[Tensor, "rows vocab"], labels: Int[Tensor, " rows"], ce_weight: float) -> ChunkResult:
    """Returns the measures of plain cross-entropy; `student` turns from logits into their gradient."""
    index = labels.unsqueeze(1)
    at_label = student.gather(1, index).squeeze(1)
    ce = _softmax_(student) - at_label
    one = torch.ones_like(ce)
    student.scatter_add_(1, index, -one.unsqueeze(1))
    nothing = torch.zeros_like(ce)
    return ChunkResult(torch.stack([one, ce, nothing, nothing, nothing], dim=1), ce_weight)


def distillation_(
    student: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    labels: Int[Tensor, " rows"],
    objective: Objective,
) -> ChunkResult:
    """Returns the measures of CE and KL; `student` turns from logits into their gradient, the others are used up."""
    temperature, index = objective.temperature, labels.unsqueeze(1)
    top = teacher.argmax(dim=1, keepdim=True)  # the first maximum on ties
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, top).squeeze(1)
    target = _target_(teacher, spare, index, top, objective)
    # sum(q0 * (z - s)) rather than two sums: a student that equals its teacher then measures exactly 0
    difference = teacher.sub_(student, alpha=1 / temperature).mul_(target.q).sum(dim=1)
    normalisers, factor = _dense_gradient_(student, teacher, target, objective)
    ce = normalisers.plain - at_label
    kl = target.kl(difference, normalisers.tempered, at_label / temperature, at_top / temperature)
    pull = objective.kl_weight * temperature
    change = target.correction
    student.scatter_add_(1, index, -((objective.ce_weight + pull * change.at_label) / factor).unsqueeze(1))
    student.scatter_add_(1, top, -(pull * change.at_top / factor).unsqueeze(1))
    measures = [torch.ones_like(ce), ce, temperature**2 * kl, target.is_top.to(ce.dtype), target.q_top - target.q_label]
    return ChunkResult(torch.stack(measures, dim=1), factor)


@dataclass(frozen=True)
class _Target:
    """The teacher's side of a chunk, at the temperature of the KL term."""

    q: Float[Tensor, "rows vocab"]
    log_normaliser: Float[Tensor, " rows"]
    q_label: Float[Tensor, " rows"]
    q_top: Float[Tensor, " rows"]
    is_top: Bool[Tensor, " rows"]
    """Whether the teacher's first choice is the true token."""
    correction: Correction

    def kl(
        self,
        difference: Float[Tensor, " rows"],
        student_normaliser: Float[Tensor, " rows"],
        at_label: Float[Tensor, " rows"],
        at_top: Float[Tensor, " rows"],
    ) -> Float[Tensor, " rows"]:
        """Returns KL(q || p) = sum(q log q) - sum(q * s) + logsumexp(s), from sum(q0 * (z - s)) and s at y and a."""
        change = self.correction
        kl = difference - self.log_normaliser
        if change.scale is not None:
            kl = change.scale * (kl + change.scale.log())
        kl = kl + negative_entropy_shift(change, self.q_label, self.q_top, self.is_top)
        return kl + student_normaliser - change.at_label * at_label - change.at_top * at_top


def _target_(
    teacher: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    index: Int[Tensor, "rows 1"],
    top: Int[Tensor, "rows 1"],
    objective: Objective,
) -> _Target:
    """Returns the target, its probabilities in `spare`; `teacher` is left as logits / T."""
    if objective.temperature != 1:
        teacher.div_(objective.temperature)
    teacher_top = teacher.gather(1, top).squeeze(1)
    q = torch.softmax(teacher, dim=1, out=spare)
    q_label, q_top = q.gather(1, index).squeeze(1), q.gather(1, top).squeeze(1)
    correction = TRANSFORMS[objective.transform](q_label, q_top)
    return _Target(q, teacher_top - q_top.log(), q_label, q_top, (top == index).squeeze(1), correction)


@dataclass(frozen=True)
class _Normalisers:
    plain: Float[Tensor, " rows"]
    """logsumexp(s)"""
    tempered: Float[Tensor, " rows"]
    """logsumexp(s / T)"""


def _dense_gradient_(
    student: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    target: _Target,
    objective: Objective,
) -> tuple[_Normalisers, float]:
    """Returns the normalisers and the factor; `student` becomes the dense part of the gradient / factor."""
    if target.correction.scale is not None:
        target.q.mul_(target.correction.scale.unsqueeze(1))
    if objective.temperature == 1:  # p and p_T are one: a single softmax and a single subtraction
        factor = objective.ce_weight + objective.kl_weight
        normaliser = _softmax_(student)
        student.sub_(target.q, alpha=objective.kl_weight / factor)
        return _Normalisers(normaliser, normaliser), factor
    factor = objective.kl_weight * objective.temperature
    plain = _softmax_(spare.copy_(student))
    tempered = _softmax_(student.div_(objective.temperature))
    student.sub_(target.q).add_(spare, alpha=objective.ce_weight / factor)
    return _Normalisers(plain, tempered), factor


def _softmax_(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Returns logsumexp(logits), which become their softmax.

    The largest probability is at least 1 / vocab, so its logarithm is safe; this saves the second exponential.
    """
    largest = logits.amax(dim=1)
    torch.softmax(logits, dim=1, out=logits)
    return largest - logits.amax(dim=1).log()
