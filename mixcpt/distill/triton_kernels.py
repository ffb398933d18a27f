"""Triton kernels for a chunk's logits on a GPU: row statistics in one pass, the gradient in a second one.

At T = 1 the torch operations of `chunk.py` read or write the logits nine times. These kernels read them twice and write
them once, and need no third matrix. Importing this module needs triton.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from mixcpt.distill.targets import Column, Labels, Logits, PerRow

_BLOCK = 4096
_NUM_WARPS = 8


@dataclass(frozen=True)
class Softmax:
    """Numbers per row that give softmax(x / T) = exp((x - largest) / T) / total."""

    largest: PerRow
    total: PerRow

    def log_sum_exp(self, temperature: float) -> PerRow:
        """Return logsumexp(x / T)."""
        return self.largest / temperature + self.total.log()


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of the logits. Without a teacher, `teacher`, `top` and `difference` are meaningless."""

    plain: Softmax
    """The student's softmax at T = 1."""
    tempered: Softmax
    """The student's softmax at T; the same object as `plain` at T = 1."""
    teacher: Softmax
    """The teacher's softmax at T."""
    top: Column
    """Index a of the teacher's largest logit; the first of equal maxima."""
    difference: PerRow
    """Value of sum(q0 * (z - s) / T)."""


@dataclass(frozen=True, kw_only=True)
class RowGradient:
    """Coefficients of a row's gradient.

    gradient = plain * p + tempered * p_T - teacher * q0 - at_label * onehot(y) - at_top * onehot(a)
    """

    plain: PerRow
    tempered: PerRow
    teacher: PerRow
    at_label: PerRow
    at_top: PerRow


def statistics(student: Logits, teacher: Logits | None, temperature: float) -> Statistics:
    """Return the statistics that the loss needs, from one pass over the logits."""
    rows, vocab = student.shape
    other = student if teacher is None else teacher
    numbers = torch.empty(6, rows, dtype=torch.float32, device=student.device)
    top = torch.empty(rows, 1, dtype=torch.int64, device=student.device)
    arguments = student, other, numbers, top, vocab, student.stride(0), other.stride(0), temperature
    _statistics_kernel[(rows,)](*arguments, **_constants(teacher, temperature))
    largest, total, tempered_total, teacher_largest, teacher_total, difference = numbers
    plain = Softmax(largest, total)
    return Statistics(
        plain=plain,
        tempered=Softmax(largest, tempered_total) if temperature != 1 else plain,
        teacher=Softmax(teacher_largest, teacher_total),
        top=top,
        difference=difference,
    )


def gradient_(
    student: Logits,
    teacher: Logits | None,
    *,
    labels: Labels,
    stats: Statistics,
    gradient: RowGradient,
    temperature: float,
) -> None:
    """Overwrite the student's logits with their gradient; the teacher's logits stay."""
    rows, vocab = student.shape
    other = student if teacher is None else teacher
    # p = exp(s - largest) / total: the kernel gets each coefficient already divided by its total
    numbers = torch.stack(
        [
            stats.plain.largest,
            gradient.plain / stats.plain.total,
            gradient.tempered / stats.tempered.total,
            stats.teacher.largest,
            gradient.teacher / stats.teacher.total,
            gradient.at_label,
            gradient.at_top,
        ]
    )
    arguments = student, other, numbers, labels, stats.top, rows, vocab, student.stride(0), other.stride(0), temperature
    _gradient_kernel[(rows, triton.cdiv(vocab, _BLOCK))](*arguments, **_constants(teacher, temperature))


def _constants(teacher: Logits | None, temperature: float) -> dict[str, Any]:
    """Return the arguments that a kernel is compiled for."""
    is_tempered = temperature != 1
    return {"HAS_TEACHER": teacher is not None, "IS_TEMPERED": is_tempered, "BLOCK": _BLOCK, "num_warps": _NUM_WARPS}


def _kernel(function: Callable[..., Any]) -> Any:
    """Return the compiled function, without the wrapper that checks shapes in tests: triton reads the source."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _over(x, temperature, IS_TEMPERED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return x / T, and x itself at T = 1: equal logits of student and teacher then have bitwise equal sums."""
    if IS_TEMPERED:
        x = x / temperature
    return x


@_kernel
def _statistics_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    numbers,
    top,
    vocab,
    student_stride,
    teacher_stride,
    temperature,
    HAS_TEACHER: tl.constexpr,
    IS_TEMPERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write one column of `numbers` and of `top`: each program reads one row, with running maxima and sums."""
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0)
    student += row * student_stride
    teacher += row * teacher_stride
    zero = tl.zeros([], tl.float32)
    lowest = zero - float("inf")
    s_largest, s_total, s_tempered = lowest, zero, zero
    z_largest, z_total, difference = lowest, zero, zero
    first = tl.zeros([], tl.int64)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocab
        s = tl.load(student + columns, mask=inside, other=-float("inf"))
        # max s, and sum(exp(s - max s)): a larger maximum shrinks the sum so far
        larger = tl.maximum(s_largest, tl.max(s, axis=0))
        s_total = s_total * tl.exp(s_largest - larger) + tl.sum(tl.exp(s - larger), axis=0)
        # sum(exp((s - max s) / T))
        if IS_TEMPERED:
            shrink = tl.exp((s_largest - larger) / temperature)
            s_tempered = s_tempered * shrink + tl.sum(tl.exp((s - larger) / temperature), axis=0)
        s_largest = larger
        if HAS_TEACHER:
            z = tl.load(teacher + columns, mask=inside, other=-float("inf"))
            # a = argmax z; only a strictly larger maximum replaces the first one
            block_largest, place = tl.max(z, axis=0, return_indices=True, return_indices_tie_break_left=True)
            first = tl.where(block_largest > z_largest, start + place, first).to(tl.int64)
            larger = tl.maximum(z_largest, block_largest)
            shrink = tl.exp(_over(z_largest - larger, temperature, IS_TEMPERED))
            # sum(exp((z - max z) / T)), and the same sum weighted by (z - s) / T
            q = tl.exp(_over(z - larger, temperature, IS_TEMPERED))
            gap = _over(tl.where(inside, z - s, 0.0), temperature, IS_TEMPERED)
            z_total = z_total * shrink + tl.sum(q, axis=0)
            difference = difference * shrink + tl.sum(q * gap, axis=0)
            z_largest = larger
    tl.store(numbers + row, s_largest)
    tl.store(numbers + rows + row, s_total)
    tl.store(numbers + 2 * rows + row, s_tempered)
    if HAS_TEACHER:
        tl.store(numbers + 3 * rows + row, z_largest)
        tl.store(numbers + 4 * rows + row, z_total)
        # sum(q0 * (z - s) / T), q0 = exp((z - max z) / T) / total
        tl.store(numbers + 5 * rows + row, difference / z_total)
        tl.store(top + row, first)


@_kernel
def _gradient_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    numbers,
    labels,
    top,
    rows,
    vocab,
    student_stride,
    teacher_stride,
    temperature,
    HAS_TEACHER: tl.constexpr,
    IS_TEMPERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Overwrite one block of one row of the student's logits; `gradient_` defines the rows of `numbers`."""
    row = tl.program_id(0).to(tl.int64)
    numbers += row
    student += row * student_stride
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocab
    # plain * p
    s = tl.load(student + columns, mask=inside, other=0.0) - tl.load(numbers)
    gradient = tl.load(numbers + rows) * tl.exp(s)
    # + tempered * p_T
    if IS_TEMPERED:
        gradient += tl.load(numbers + 2 * rows) * tl.exp(s / temperature)
    if HAS_TEACHER:
        # - teacher * q0
        z = tl.load(teacher + row * teacher_stride + columns, mask=inside, other=0.0) - tl.load(numbers + 3 * rows)
        gradient -= tl.load(numbers + 4 * rows) * tl.exp(_over(z, temperature, IS_TEMPERED))
        # - at_top * onehot(a)
        gradient -= tl.where(columns == tl.load(top + row), tl.load(numbers + 6 * rows), 0.0)
    # - at_label * onehot(y)
    gradient -= tl.where(columns == tl.load(labels + row), tl.load(numbers + 5 * rows), 0.0)
    tl.store(student + columns, gradient, mask=inside)
