"""Loss and gradient of one chunk of rows, computed in place over its logits: cross-entropy, and forward KL.

The gradient with respect to the student's logits s, for teacher logits z and temperature T, is
(docs/algorithms.md#label-corrected-teachers)

    ce * p + pull * p_T - pull * scale * q0 - (ce + pull * at_label) * onehot(y) - pull * at_top * onehot(a)

with p = softmax(s), p_T = softmax(s / T), q0 = softmax(z / T), pull = kl_weight * T * weight; scale, at_label, at_top
and weight come from the target's `Correction`. The buffer holds the gradient divided by a factor, which the next
matrix product applies.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.targets import (
    TRANSFORMS,
    Choices,
    Column,
    Correction,
    Labels,
    Logits,
    PerRow,
    negative_entropy_shift,
)

MEASURES = ("tokens", "ce", "kl", "correct", "gap", "loss")
"""Columns of the measures per row: 1; CE; T^2 * KL, or 0 if a mask drops it; whether the teacher's first choice is the
true token; d = q0[a] - q0[y]; the row's loss with its weight, before normalisation."""

_STRIPE = 256
_FEW_STRIPES = 16


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """Measures of a chunk's rows, and the scale of its gradient."""

    ce: PerRow
    kl: PerRow
    correct: PerRow
    gap: PerRow
    factor: float
    """Ratio of the gradient to the content of the buffer."""

    @classmethod
    def taught(
        cls, ce: Tensor, kl: Tensor, choices: Choices, correction: Correction, *, factor: float = 1.0
    ) -> "ChunkResult":
        """Return the result with a teacher; `kl` is not weighted yet."""
        correct, gap = choices.is_top.to(ce.dtype), choices.q_top - choices.q_label
        return cls(ce=ce, kl=weighted(kl, correction), correct=correct, gap=gap, factor=factor)

    def measures(self, objective: ObjectiveConfig, weights: Tensor | None) -> Float[Tensor, "rows measures"]:
        """Return the columns of `MEASURES` in float64; `weights` multiply the loss."""
        ce, kl = self.ce.double(), self.kl.double()
        loss = objective.ce_weight * ce + objective.kl_weight * kl
        if weights is not None:
            loss = loss * weights
        return torch.stack([torch.ones_like(ce), ce, kl, self.correct.double(), self.gap.double(), loss], dim=1)


def cross_entropy_(student: Logits, labels: Labels, ce_weight: float) -> ChunkResult:
    """Compute the plain cross-entropy; overwrite the student's logits with their gradient."""
    index = labels.unsqueeze(1)
    at_label = student.gather(1, index).squeeze(1)  # s_y
    zero, kernels = torch.zeros_like(at_label), kernels_for(student.device, student.dtype)
    if kernels is None:
        ce = softmax_(student) - at_label  # logsumexp(s) - s_y; student <- p
        student.scatter_add_(1, index, -torch.ones_like(index, dtype=student.dtype))  # p - onehot(y)
    else:
        stats, one = kernels.statistics(student, None, 1.0), torch.ones_like(at_label)
        ce = stats.plain.log_sum_exp(1.0) - at_label  # logsumexp(s) - s_y
        gradient = kernels.RowGradient(plain=one, tempered=zero, teacher=zero, at_label=one, at_top=zero)
        kernels.gradient_(student, None, labels=labels, stats=stats, gradient=gradient, temperature=1.0)
    return ChunkResult(ce=ce, kl=zero, correct=zero, gap=zero, factor=ce_weight)


def forward_kl_(
    student: Logits, teacher: Logits, spare: Logits | None, *, labels: Labels, objective: ObjectiveConfig
) -> ChunkResult:
    """Compute CE and KL(q || p_T); overwrite the student's logits with their gradient, and the other matrices.

    If there are `kernels_for` the logits, `spare` may be None.
    """
    kernels = kernels_for(student.device, student.dtype)
    if kernels is not None:
        return _forward_kl_with_(kernels, student, teacher, labels=labels, objective=objective)
    assert spare is not None
    temperature, index = objective.temperature, labels.unsqueeze(1)
    # spare <- q0; teacher <- z / T; a, and the corrections of q
    target = target_(teacher, spare, index, objective=objective)
    correction = target.correction
    # s_y and s_a
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, target.top).squeeze(1)
    # sum(q0 * (z - s) / T) in one sum, not two: it is exactly 0 if the student equals its teacher; teacher is free now
    difference = teacher.sub_(student, alpha=1 / temperature).mul_(spare).sum(dim=1)
    # student <- (ce * p + pull * (p_T - scale * q0)) / factor
    plain, tempered, factor = _dense_gradient_(student, teacher, spare, correction=correction, objective=objective)
    # CE = logsumexp(s) - s_y
    ce = plain - at_label
    # KL(q || p_T)
    kl = target.kl(difference, tempered, at_label=at_label / temperature, at_top=at_top / temperature)
    # student -= (ce + pull * at_label) / factor at y
    pull = objective.kl_weight * temperature
    label_term = objective.ce_weight + pull * weighted(correction.at_label, correction)
    student.scatter_add_(1, index, -(label_term / factor).unsqueeze(1))
    # student -= pull * at_top / factor at a
    top_term = pull * weighted(correction.at_top, correction)
    student.scatter_add_(1, target.top, -(top_term / factor).unsqueeze(1))
    return ChunkResult.taught(ce, temperature**2 * kl, target.choices, correction, factor=factor)


def kernels_for(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return the Triton kernels if they can process such logits: fp32, on a GPU, with triton installed."""
    return _triton_kernels() if device.type == "cuda" and dtype == torch.float32 else None


@cache
def _triton_kernels() -> ModuleType | None:
    return import_module("mixcpt.distill.triton_kernels") if find_spec("triton") else None


def _forward_kl_with_(
    kernels: ModuleType, student: Logits, teacher: Logits, *, labels: Labels, objective: ObjectiveConfig
) -> ChunkResult:
    """Compute the result of `forward_kl_` in two passes of `mixcpt.distill.triton_kernels`."""
    temperature, index = objective.temperature, labels.unsqueeze(1)
    # first pass: normalisers of s, s / T and z / T; a; sum(q0 * (z - s) / T)
    stats = kernels.statistics(student, teacher, temperature)
    # s_y and s_a
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, stats.top).squeeze(1)
    # log q0[y] = z_y / T - logsumexp(z / T)
    log_normaliser = stats.teacher.log_sum_exp(temperature)
    log_label = teacher.gather(1, index).squeeze(1) / temperature - log_normaliser
    # log q0[a] = -log(total), because the total is relative to the largest logit
    log_top = -stats.teacher.total.log()
    choices = Choices(
        q_label=log_label.exp(),
        q_top=1 / stats.teacher.total,
        log_label=log_label,
        log_top=log_top,
        is_top=(stats.top == index).squeeze(1),
    )
    correction = TRANSFORMS[objective.transform](choices, objective.margin)
    target = Target(log_normaliser=log_normaliser, top=stats.top, choices=choices, correction=correction)
    # second pass: student <- gradient
    gradient = _row_gradient(kernels, correction, objective)
    kernels.gradient_(student, teacher, labels=labels, stats=stats, gradient=gradient, temperature=temperature)
    # CE = logsumexp(s) - s_y, and KL(q || p_T)
    ce = stats.plain.log_sum_exp(1.0) - at_label
    normaliser = stats.tempered.log_sum_exp(temperature)
    kl = target.kl(stats.difference, normaliser, at_label=at_label / temperature, at_top=at_top / temperature)
    return ChunkResult.taught(ce, temperature**2 * kl, choices, correction)


def _row_gradient(kernels: ModuleType, correction: Correction, objective: ObjectiveConfig) -> Any:
    """Return the coefficients of the gradient (see the module's formula) as a `RowGradient`."""
    ce = torch.full_like(correction.at_label, objective.ce_weight)
    # pull = kl_weight * T * weight
    pull = weighted(torch.full_like(ce, objective.kl_weight * objective.temperature), correction)
    scaled_pull = pull if correction.scale is None else pull * correction.scale
    # at T = 1 p and p_T are one softmax
    is_plain = objective.temperature == 1
    return kernels.RowGradient(
        plain=ce + pull if is_plain else ce,
        tempered=torch.zeros_like(pull) if is_plain else pull,
        teacher=scaled_pull,
        at_label=ce + pull * correction.at_label,
        at_top=pull * correction.at_top,
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """The corrected teacher of a chunk, at the temperature of the KL term."""

    log_normaliser: PerRow
    """Value of logsumexp(z / T)."""
    top: Column
    """The teacher's first choice a; the first of equal maxima."""
    choices: Choices
    correction: Correction

    def kl(self, difference: PerRow, normaliser: PerRow, *, at_label: PerRow, at_top: PerRow) -> PerRow:
        """Return KL(q || p_T) = sum(q log q) - sum(q * s / T) + logsumexp(s / T).

        `difference` is sum(q0 * (z - s) / T), `normaliser` logsumexp(s / T), `at_label` s_y / T, and `at_top` s_a / T.
        """
        correction = self.correction
        # sum(q0 log q0) - sum(q0 * s / T), because log q0 = z / T - logsumexp(z / T)
        kl = difference - self.log_normaliser
        # the same for scale * q0: scale * kl + scale * log(scale)
        if correction.scale is not None:
            kl = correction.scale * kl + torch.xlogy(correction.scale, correction.scale)
        # + change of sum(q log q) at y and a
        kl = kl + negative_entropy_shift(correction, self.choices)
        # + logsumexp(s / T) - change of sum(q * s / T) at y and a
        return kl + normaliser - correction.at_label * at_label - correction.at_top * at_top


def weighted(values: PerRow, correction: Correction) -> PerRow:
    """Return the values times the correction's weight."""
    return values if correction.weight is None else values * correction.weight


def target_(teacher: Logits, spare: Logits, index: Column, *, objective: ObjectiveConfig) -> Target:
    """Compute the target for the true tokens `index`; overwrite `spare` with q0 and `teacher` with z / T."""
    # a = argmax z
    top = first_choice(teacher)
    if objective.temperature != 1:
        teacher.div_(objective.temperature)
    # z_y / T and z_a / T
    teacher_label, teacher_top = teacher.gather(1, index).squeeze(1), teacher.gather(1, top).squeeze(1)
    # q0 = softmax(z / T), q0[y] and q0[a]
    q = torch.softmax(teacher, dim=1, out=spare)
    q_label, q_top = q.gather(1, index).squeeze(1), q.gather(1, top).squeeze(1)
    # logsumexp(z / T) = z_a / T - log q0[a], safe because q0[a] >= 1 / vocab
    log_top = q_top.log()
    log_normaliser = teacher_top - log_top
    # log q0[y] = z_y / T - logsumexp(z / T)
    log_label = teacher_label - log_normaliser
    is_top = (top == index).squeeze(1)
    choices = Choices(q_label=q_label, q_top=q_top, log_label=log_label, log_top=log_top, is_top=is_top)
    correction = TRANSFORMS[objective.transform](choices, objective.margin)
    return Target(log_normaliser=log_normaliser, top=top, choices=choices, correction=correction)


def _dense_gradient_(
    student: Logits, spare: Logits, q: Logits, *, correction: Correction, objective: ObjectiveConfig
) -> tuple[PerRow, PerRow, float]:
    """Overwrite the student's logits with the dense gradient / factor; return logsumexp of s and s / T, and the factor.

    dense = ce * p + pull * (p_T - scale * q0) with pull = kl_weight * T * weight; `q` is q0 at the start.
    """
    ce_weight, kl_weight, temperature = objective.ce_weight, objective.kl_weight, objective.temperature
    weight = correction.weight
    # q <- weight * scale * q0
    for row_factor in (correction.scale, weight):
        if row_factor is not None:
            q.mul_(row_factor.unsqueeze(1))

    if temperature == 1:
        # p = p_T: dense / (ce + kl) = p * (ce + kl * weight) / (ce + kl) - q * kl / (ce + kl), one softmax
        factor = ce_weight + kl_weight
        normaliser = softmax_(student)  # student <- p
        if weight is not None:
            student.mul_(((ce_weight + kl_weight * weight) / factor).unsqueeze(1))
        student.sub_(q, alpha=kl_weight / factor)
        return normaliser, normaliser, factor

    # dense / (kl * T) = weight * p_T - q + p * ce / (kl * T)
    factor = kl_weight * temperature
    plain = softmax_(spare.copy_(student))  # spare <- p
    tempered = softmax_(student.div_(temperature))  # student <- p_T
    if weight is not None:
        student.mul_(weight.unsqueeze(1))
    student.sub_(q).add_(spare, alpha=ce_weight / factor)
    return plain, tempered, factor


def softmax_(logits: Logits) -> PerRow:
    """Compute logsumexp(logits); overwrite the logits with their softmax."""
    largest = logits.amax(dim=1)
    torch.softmax(logits, dim=1, out=logits)
    # logsumexp = max - log(max p); max p >= 1 / vocab, so its logarithm is safe, and no second exponential is needed
    return largest - logits.amax(dim=1).log()


def first_choice(logits: Logits) -> Column:
    """Return per row the index of the largest logit, the first of equal maxima.

    On a CPU, argmax over a long row takes five times as long as amax. Therefore the row is cut into stripes, and only
    the first stripe that contains the maximum is searched.
    """
    vocab = logits.shape[1]
    whole = vocab - vocab % _STRIPE
    if logits.device.type != "cpu" or whole < _FEW_STRIPES * _STRIPE:
        return logits.argmax(dim=1, keepdim=True)
    # maximum of each stripe; the ragged last stripe separately
    largest = logits[:, :whole].unflatten(1, (-1, _STRIPE)).amax(dim=2)
    if whole < vocab:
        largest = torch.cat([largest, logits[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    # columns of the first stripe that contains the row's maximum
    start = _STRIPE * largest.argmax(dim=1, keepdim=True)
    columns = (start + torch.arange(_STRIPE, device=logits.device)).clamp_(max=vocab - 1)
    # first maximum within the stripe
    place = logits.gather(1, columns).argmax(dim=1, keepdim=True)
    choice: Tensor = columns.gather(1, place)
    return choice
