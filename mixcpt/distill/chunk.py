"""Loss and gradient of one chunk of rows, written in place over its logits: cross-entropy, and forward KL.

The gradient with respect to the student's logits s, for teacher logits z and temperature T, is (METHODS 1.2)

    ce * p + pull * p_T - pull * scale * q0 - (ce + pull * at_label) * onehot(y) - pull * at_top * onehot(a)

with p = softmax(s), p_T = softmax(s / T), q0 = softmax(z / T), pull = kl_weight * T * weight; scale, at_label, at_top
and weight come from the target's `Correction`. Its dense part is returned divided by a factor that the next matrix
product takes in.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixcpt.distill.objective import Objective
from mixcpt.distill.targets import TRANSFORMS, Choices, Correction, negative_entropy_shift

MEASURES = ("tokens", "ce", "kl", "correct", "gap", "loss")
"""Per row: 1, CE, T^2 times the divergence (0 where a mask drops it), whether the teacher's first choice is right,
d = q0[a] - q0[y], and the row's part of the loss, with its weight and before it is normalised."""


_STRIPE = 256
_FEW_STRIPES = 16


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
    nothing, kernels = torch.zeros_like(at_label), kernels_for(student.device, student.dtype)
    if kernels is None:
        ce = softmax_(student) - at_label
        student.scatter_add_(1, index, -torch.ones_like(index, dtype=student.dtype))
    else:
        found = kernels.statistics(student, None, 1.0)
        ce, one = found.plain.log_sum_exp(1.0) - at_label, torch.ones_like(at_label)
        kernels.gradient_(student, None, labels, found, kernels.RowGradient(one, nothing, nothing, one, nothing), 1.0)
    return ChunkResult(ce, nothing, nothing, nothing, ce_weight)


def forward_kl_(
    student: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"] | None,
    labels: Int[Tensor, " rows"],
    objective: Objective,
) -> ChunkResult:
    """Returns what CE and KL measure; `student` turns from logits into their gradient, the others are used up.

    No `spare` is needed where there are `kernels_for` the logits.
    """
    kernels = kernels_for(student.device, student.dtype)
    if kernels is not None:
        return _forward_kl_with_(kernels, student, teacher, labels, objective)
    assert spare is not None
    temperature, index = objective.temperature, labels.unsqueeze(1)
    target = target_(teacher, spare, index, objective)
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, target.top).squeeze(1)
    # sum(q0 * (z - s)) rather than two sums: a student that equals its teacher then measures exactly 0
    difference = teacher.sub_(student, alpha=1 / temperature).mul_(spare).sum(dim=1)
    normalisers, factor = _dense_gradient_(student, teacher, spare, target.correction, objective)
    ce = normalisers.plain - at_label
    kl = target.kl(difference, normalisers.tempered, at_label / temperature, at_top / temperature)
    change = target.correction
    pull = objective.kl_weight * temperature
    student.scatter_add_(
        1, index, -((objective.ce_weight + pull * weighted(change.at_label, change)) / factor).unsqueeze(1)
    )
    student.scatter_add_(1, target.top, -(pull * weighted(change.at_top, change) / factor).unsqueeze(1))
    return target.result(ce, temperature**2 * kl, factor)


def kernels_for(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Returns the Triton kernels where they can take such logits: in fp32, on a GPU, with triton installed."""
    return _triton_kernels() if device.type == "cuda" and dtype == torch.float32 else None


@cache
def _triton_kernels() -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    return import_module("mixcpt.distill.triton_kernels")


def _forward_kl_with_(
    kernels: ModuleType,
    student: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"],
    labels: Int[Tensor, " rows"],
    objective: Objective,
) -> ChunkResult:
    """Returns what `forward_kl_` returns, from two passes by `mixcpt.distill.triton_kernels`."""
    temperature, index = objective.temperature, labels.unsqueeze(1)
    found = kernels.statistics(student, teacher, temperature)
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, found.top).squeeze(1)
    log_normaliser = found.teacher.log_sum_exp(temperature)
    log_label = teacher.gather(1, index).squeeze(1) / temperature - log_normaliser
    log_top = -found.teacher.total.log()  # its logit is the largest
    choices = Choices(log_label.exp(), 1 / found.teacher.total, log_label, log_top, (found.top == index).squeeze(1))
    change = TRANSFORMS[objective.transform](choices, objective.margin)
    target = Target(log_normaliser, found.top, choices, change)
    gradient = _row_gradient(kernels, change, objective)
    kernels.gradient_(student, teacher, labels, found, gradient, temperature)
    ce = found.plain.log_sum_exp(1.0) - at_label
    normaliser = found.tempered.log_sum_exp(temperature)
    kl = target.kl(found.difference, normaliser, at_label / temperature, at_top / temperature)
    return target.result(ce, temperature**2 * kl, 1.0)


def _row_gradient(kernels: ModuleType, change: Correction, objective: Objective) -> Any:
    """Returns the `RowGradient` of the formula on top."""
    ce = torch.full_like(change.at_label, objective.ce_weight)
    pull = weighted(torch.full_like(ce, objective.kl_weight * objective.temperature), change)
    of_teacher = pull if change.scale is None else pull * change.scale
    one_softmax = objective.temperature == 1
    plain, tempered = (ce + pull, torch.zeros_like(pull)) if one_softmax else (ce, pull)
    return kernels.RowGradient(plain, tempered, of_teacher, ce + pull * change.at_label, pull * change.at_top)


@dataclass(frozen=True)
class Target:
    """The teacher's side of a chunk, at the temperature of the KL term."""

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
    """Returns the target for the true tokens `index`; `spare` becomes q0, `teacher` is left as logits / T."""
    top = first_choice(teacher)
    if objective.temperature != 1:
        teacher.div_(objective.temperature)
    teacher_label, teacher_top = teacher.gather(1, index).squeeze(1), teacher.gather(1, top).squeeze(1)
    q = torch.softmax(teacher, dim=1, out=spare)
    q_label, q_top = q.gather(1, index).squeeze(1), q.gather(1, top).squeeze(1)
    log_top = q_top.log()
    log_normaliser = teacher_top - log_top
    choices = Choices(q_label, q_top, teacher_label - log_normaliser, log_top, (top == index).squeeze(1))
    correction = TRANSFORMS[objective.transform](choices, objective.margin)
    return Target(log_normaliser, top, choices, correction)


@dataclass(frozen=True)
class _Normalisers:
    plain: Float[Tensor, " rows"]
    """logsumexp(s)"""
    tempered: Float[Tensor, " rows"]
    """logsumexp(s / T)"""


def _dense_gradient_(
    student: Float[Tensor, "rows vocab"],
    spare: Float[Tensor, "rows vocab"],
    q: Float[Tensor, "rows vocab"],
    correction: Correction,
    objective: Objective,
) -> tuple[_Normalisers, float]:
    """Returns the normalisers and the factor; `student` becomes the dense part of the gradient / factor."""
    weight = correction.weight
    for share in (correction.scale, weight):
        if share is not None:
            q.mul_(share.unsqueeze(1))
    if objective.temperature == 1:  # p and p_T are one: a single softmax and a single subtraction
        factor = objective.ce_weight + objective.kl_weight
        normaliser = softmax_(student)
        if weight is not None:
            student.mul_(((objective.ce_weight + objective.kl_weight * weight) / factor).unsqueeze(1))
        student.sub_(q, alpha=objective.kl_weight / factor)
        return _Normalisers(normaliser, normaliser), factor
    factor = objective.kl_weight * objective.temperature
    plain = softmax_(spare.copy_(student))
    tempered = softmax_(student.div_(objective.temperature))
    if weight is not None:
        student.mul_(weight.unsqueeze(1))
    student.sub_(q).add_(spare, alpha=objective.ce_weight / factor)
    return _Normalisers(plain, tempered), factor


def softmax_(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Returns logsumexp(logits), which become their softmax.

    The largest probability is at least 1 / vocab, so its logarithm is safe; this saves the second exponential.
    """
    largest = logits.amax(dim=1)
    torch.softmax(logits, dim=1, out=logits)
    return largest - logits.amax(dim=1).log()


def first_choice(logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows 1"]:
    """Returns where the largest logit of each row is; of equal ones the first.

    On a CPU, argmax over a long row takes five times as long as amax. So the row is cut into stripes, and only the
    first of those that hold the maximum is searched.
    """
    vocab = logits.shape[1]
    whole = vocab - vocab % _STRIPE
    if logits.device.type != "cpu" or whole < _FEW_STRIPES * _STRIPE:
        return logits.argmax(dim=1, keepdim=True)
    largest = logits[:, :whole].unflatten(1, (-1, _STRIPE)).amax(dim=2)
    if whole < vocab:
        largest = torch.cat([largest, logits[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    start = _STRIPE * largest.argmax(dim=1, keepdim=True)
    columns = (start + torch.arange(_STRIPE, device=logits.device)).clamp_(max=vocab - 1)
    found: Tensor = columns.gather(1, logits.gather(1, columns).argmax(dim=1, keepdim=True))
    return found
