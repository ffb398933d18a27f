"""Loss and gradient of one chunk of rows, written in place over its logits: cross-entropy, and forward KL.

The gradient with respect to the student's logits s, for teacher logits z and temperature T, is (METHODS 1.2)

    ce * p + pull * p_T - pull * scale * q0 - (ce + pull * at_label) * onehot(y) - pull * at_top * onehot(a)

with p = softmax(s), p_T = softmax(s / T), q0 = softmax(z / T), pull = kl_weight * T * weight; scale, at_label, at_top
and weight come from the target's `Correction`. Its dense part is returned divided by a factor that the next matrix
product takes in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixcpt.distill.objective import Objective
from mixcpt.distill.targets import TRANSFORMS, Choices, Correction, negative_entropy_shift

MEASURES = ("tokens", "ce", "kl", "correct", "gap", "loss")
"""Per row: 1, CE, T^2 times the divergence (0 where a mask drops it), whether the teacher's first choice is right,
d = q0[a] - q0[y], and the row's part of the loss, with its weight and before it is normalised."""


@dataclass(frozen=True)
class ChunkResult:
    ce: Float[Tensor, " rows"]
    kl: Float[Tensor, " rows"]
    correct: Float[Tensor, " rows"]
    gap: Float[Tensor, " rows"]
    factor: float
    """The gradient is the buffer's content times this."""

    def measures(self, objective: Objective, weights: Float[Tensor, " rows"] | None) -> Float[Tensor, "rows measures"]:
        """Returns the columns of `MEASURES` in float64; `weights` multiply the loss."""
        ce, kl = self.ce.double(), self.kl.double()
        loss = objective.ce_weight * ce + objective.kl_weight * kl
        if weights is not None:
            loss = loss * weights
        return torch.stack([torch.ones_like(ce), ce, kl, self.correct.double(), self.gap.double(), loss], dim=1)


def cross_entropy_(student: Float[Tensor, "rows vocab"], labels: Int[Tensor, " rows"], ce_weight: float) -> ChunkResult:
    """Returns what plain cross-entropy measures; `student` turns from logits into their gradient."""
    index = labels.unsqueeze(1)
    at_label = student.gather(1, index).squeeze(1)
    ce = softmax_(student) - at_label
    student.scatter_add_(1, index, -torch.ones_like(index, dtype=student.dtype))
    nothing = torch.zeros_like(ce)
    return ChunkResult(ce, nothing, nothing, nothing, ce_weight)


def forward_kl_(
    student: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    labels: Int[Tensor, " rows"],
    objective: Objective,
) -> ChunkResult:
    """Returns what CE and KL measure; `student` turns from logits into their gradient, the others are used up."""
    temperature, index = objective.temperature, labels.unsqueeze(1)
    target = target_(teacher, spare, index, objective)
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, target.top).squeeze(1)
    # sum(q0 * (z - s)) rather than two sums: a student that equals its teacher then measures exactly 0
    difference = teacher.sub_(student, alpha=1 / temperature).mul_(target.q).sum(dim=1)
    normalisers, factor = _dense_gradient_(student, teacher, target, objective)
    ce = normalisers.plain - at_label
    kl = target.kl(difference, normalisers.tempered, at_label / temperature, at_top / temperature)
    change = target.correction
    pull = objective.kl_weight * temperature
    student.scatter_add_(
        1, index, -((objective.ce_weight + pull * weighted(change.at_label, change)) / factor).unsqueeze(1)
    )
    student.scatter_add_(1, target.top, -(pull * weighted(change.at_top, change) / factor).unsqueeze(1))
    return target.result(ce, temperature**2 * kl, factor)


@dataclass(frozen=True)
class Target:
    """The teacher's side of a chunk, at the temperature of the KL term."""

    q: Float[Tensor, "rows vocab"]
    """q0, uncorrected."""
    log_normaliser: Float[Tensor, " rows"]
    top: Int[Tensor, "rows 1"]
    """The teacher's first choice; of equal maxima the first."""
    choices: Choices
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
            kl = change.scale * kl + torch.xlogy(change.scale, change.scale)
        kl = kl + negative_entropy_shift(change, self.choices)
        return kl + student_normaliser - change.at_label * at_label - change.at_top * at_top

    def result(self, ce: Float[Tensor, " rows"], kl: Float[Tensor, " rows"], factor: float) -> ChunkResult:
        """Returns the result of a chunk with this target."""
        choices = self.choices
        correct, gap = choices.is_top.to(ce.dtype), choices.q_top - choices.q_label
        return ChunkResult(ce, weighted(kl, self.correction), correct, gap, factor)


def weighted(values: Float[Tensor, " rows"], correction: Correction) -> Float[Tensor, " rows"]:
    """Returns the values times the correction's weight."""
    return values if correction.weight is None else values * correction.weight


def target_(
    teacher: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    index: Int[Tensor, "rows 1"],
    objective: Objective,
) -> Target:
    """Returns the target for the true tokens `index`, its q in `spare`; `teacher` is left as logits / T."""
    top = teacher.argmax(dim=1, keepdim=True)  # the first maximum on ties
    if objective.temperature != 1:
        teacher.div_(objective.temperature)
    teacher_label, teacher_top = teacher.gather(1, index).squeeze(1), teacher.gather(1, top).squeeze(1)
    q = torch.softmax(teacher, dim=1, out=spare)
    q_label, q_top = q.gather(1, index).squeeze(1), q.gather(1, top).squeeze(1)
    log_top = q_top.log()
    log_normaliser = teacher_top - log_top
    choices = Choices(q_label, q_top, teacher_label - log_normaliser, log_top, (top == index).squeeze(1))
    correction = TRANSFORMS[objective.transform](choices, objective.margin)
    return Target(q, log_normaliser, top, choices, correction)


@dataclass(frozen=True)
class _Normalisers:
    plain: Float[Tensor, " rows"]
    """logsumexp(s)"""
    tempered: Float[Tensor, " rows"]
    """logsumexp(s / T)"""


def _dense_gradient_(
    student: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    target: Target,
    objective: Objective,
) -> tuple[_Normalisers, float]:
    """Returns the normalisers and the factor; `student` becomes the dense part of the gradient / factor."""
    weight = target.correction.weight
    for share in (target.correction.scale, weight):
        if share is not None:
            target.q.mul_(share.unsqueeze(1))
    if objective.temperature == 1:  # p and p_T are one: a single softmax and a single subtraction
        factor = objective.ce_weight + objective.kl_weight
        normaliser = softmax_(student)
        if weight is not None:
            student.mul_(((objective.ce_weight + objective.kl_weight * weight) / factor).unsqueeze(1))
        student.sub_(target.q, alpha=objective.kl_weight / factor)
        return _Normalisers(normaliser, normaliser), factor
    factor = objective.kl_weight * objective.temperature
    plain = softmax_(spare.copy_(student))
    tempered = softmax_(student.div_(objective.temperature))
    if weight is not None:
        student.mul_(weight.unsqueeze(1))
    student.sub_(target.q).add_(spare, alpha=objective.ce_weight / factor)
    return _Normalisers(plain, tempered), factor


def softmax_(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Returns logsumexp(logits), which become their softmax.

    The largest probability is at least 1 / vocab, so its logarithm is safe; this saves the second exponential.
    """
    largest = logits.amax(dim=1)
    torch.softmax(logits, dim=1, out=logits)
    return largest - logits.amax(dim=1).log()
