"""Triton kernels for a chunk's logits on a GPU: the statistics of each row in one pass, the gradient in a second one.

The torch operations of `chunk.py` read and write the logits nine times at T = 1; here they are read twice and written
once, and no third matrix is needed. Importing this needs triton.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 4096
_NUM_WARPS = 8


@dataclass(frozen=True)
class Softmax:
    """Of each row: softmax(x / T) = exp((x - largest) / T) / total."""

    largest: Float[Tensor, " rows"]
    total: Float[Tensor, " rows"]

    def log_sum_exp(self, temperature: float) -> Float[Tensor, " rows"]:
        """Returns logsumexp(x / T)."""
        return self.largest / temperature + self.total.log()


@dataclass(frozen=True)
class Statistics:
    plain: Softmax
    """The student's at T = 1."""
    tempered: Softmax
    """The student's at T; the same object where T = 1."""
    teacher: Softmax
    """At T. Without a teacher, this and what follows means nothing."""
    top: Int[Tensor, "rows 1"]
    """Where the teacher's largest logit is; of equal ones the first."""
    difference: Float[Tensor, " rows"]
    """sum(q0 * (z - s) / T)"""


@dataclass(frozen=True)
class RowGradient:
    """The gradient of a row: plain * p + tempered * p_T - teacher * q0 - at_label * onehot(y) - at_top * onehot(a)."""

    plain: Float[Tensor, " rows"]
    tempered: Float[Tensor, " rows"]
    teacher: Float[Tensor, " rows"]
    at_label: Float[Tensor, " rows"]
    at_top: Float[Tensor, " rows"]


def statistics(
    student: Float[Tensor, "rows vocab"], teacher: Float[Tensor, "rows vocab"] | None, temperature: float
) -> Statistics:
    """Returns what the loss needs of the logits, read once."""
    rows, vocab = student.shape
    found = torch.empty(6, rows, dtype=torch.float32, device=student.device)
    top = torch.empty(rows, 1, dtype=torch.int64, device=student.device)
    _statistics_kernel[(rows,)](
        student,
        student if teacher is None else teacher,
        found,
        top,
        vocab,
        student.stride(0),
        student.stride(0) if teacher is None else teacher.stride(0),
        temperature,
        HAS_TEACHER=teacher is not None,
        IS_TEMPERED=temperature != 1,
        BLOCK=_BLOCK,
        num_warps=_NUM_WARPS,
    )
    largest, total, tempered, teacher_largest, teacher_total, difference = found
    plain = Softmax(largest, total)
    return Statistics(
        plain,
        Softmax(largest, tempered) if temperature != 1 else plain,
        Softmax(teacher_largest, teacher_total),
        top,
        difference,
    )


def gradient_(
    student: Float[Tensor, "rows vocab"],
    teacher: Float[Tensor, "rows vocab"] | None,
    labels: Int[Tensor, " rows"],
    found: Statistics,
    gradient: RowGradient,
    temperature: float,
) -> None:
    """Turns the student's logits into their gradient; the teacher's stay."""
    rows, vocab = student.shape
    numbers = torch.stack(
        [
            found.plain.largest,
            gradient.plain / found.plain.total,
            gradient.tempered / found.tempered.total,
            found.teacher.largest,
            gradient.teacher / found.teacher.total,
            gradient.at_label,
            gradient.at_top,
        ]
    )
    _gradient_kernel[(rows, triton.cdiv(vocab, _BLOCK))](
        student,
        student if teacher is None else teacher,
        numbers,
        labels,
        found.top,
        rows,
        vocab,
        student.stride(0),
        student.stride(0) if teacher is None else teacher.stride(0),
        temperature,
        HAS_TEACHER=teacher is not None,
        IS_TEMPERED=temperature != 1,
        BLOCK=_BLOCK,
        num_warps=_NUM_WARPS,
    )


def _kernel(function: Callable[..., Any]) -> Any:
    """Returns the compiled function, without the wrapper that checks shapes in tests: triton reads its source."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _over(x, temperature, IS_TEMPERED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns x / T; where T = 1 x itself, so that equal logits of student and teacher have equal sums to the bit."""
    if IS_TEMPERED:
        x = x / temperature
    return x


@_kernel
def _statistics_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    found,
    top,
    vocab,
    student_stride,
    teacher_stride,
    temperature,
    HAS_TEACHER: tl.constexpr,
    IS_TEMPERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes a column of `found` and of `top`: one program goes through one row, with running maxima and sums."""
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0)
    student += row * student_stride
    teacher += row * teacher_stride
    nothing = tl.zeros([], tl.float32)
    lowest = nothing - float("inf")
    s_largest, s_total, s_tempered = lowest, nothing, nothing
    z_largest, z_total, difference = lowest, nothing, nothing
    first = tl.zeros([], tl.int64)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocab
        s = tl.load(student + columns, mask=inside, other=-float("inf"))
        larger = tl.maximum(s_largest, tl.max(s, axis=0))
        s_total = s_total * tl.exp(s_largest - larger) + tl.sum(tl.exp(s - larger), axis=0)
        if IS_TEMPERED:
            shrink = tl.exp((s_largest - larger) / temperature)
            s_tempered = s_tempered * shrink + tl.sum(tl.exp((s - larger) / temperature), axis=0)
        s_largest = larger
        if HAS_TEACHER:
            z = tl.load(teacher + columns, mask=inside, other=-float("inf"))
            here, place = tl.max(z, axis=0, return_indices=True, return_indices_tie_break_left=True)
            first = tl.where(here > z_largest, start + place, first).to(tl.int64)
            larger = tl.maximum(z_largest, here)
            shrink = tl.exp(_over(z_largest - larger, temperature, IS_TEMPERED))
            q = tl.exp(_over(z - larger, temperature, IS_TEMPERED))
            gap = _over(tl.where(inside, z - s, 0.0), temperature, IS_TEMPERED)
            z_total = z_total * shrink + tl.sum(q, axis=0)
            difference = difference * shrink + tl.sum(q * gap, axis=0)
            z_largest = larger
    tl.store(found + row, s_largest)
    tl.store(found + rows + row, s_total)
    tl.store(found + 2 * rows + row, s_tempered)
    if HAS_TEACHER:
        tl.store(found + 3 * rows + row, z_largest)
        tl.store(found + 4 * rows + row, z_total)
        tl.store(found + 5 * rows + row, difference / z_total)
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
    """Overwrites a block of a row of the student's logits; `numbers` are those of `gradient_`, row after row."""
    row = tl.program_id(0).to(tl.int64)
    numbers += row
    student += row * student_stride
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocab
    s = tl.load(student + columns, mask=inside, other=0.0) - tl.load(numbers)
    gradient = tl.load(numbers + rows) * tl.exp(s)
    if IS_TEMPERED:
        gradient += tl.load(numbers + 2 * rows) * tl.exp(s / temperature)
    if HAS_TEACHER:
        z = tl.load(teacher + row * teacher_stride + columns, mask=inside, other=0.0) - tl.load(numbers + 3 * rows)
        gradient -= tl.load(numbers + 4 * rows) * tl.exp(_over(z, temperature, IS_TEMPERED))
        gradient -= tl.where(columns == tl.load(top + row), tl.load(numbers + 6 * rows), 0.0)
    gradient -= tl.where(columns == tl.load(labels + row), tl.load(numbers + 5 * rows), 0.0)
    tl.store(student + columns, gradient, mask=inside)
