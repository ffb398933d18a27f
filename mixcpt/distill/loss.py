"""The fused loss: from hidden states to cross-entropy and distillation, never holding the logits of all tokens.

The scored rows are taken in chunks that fit a byte budget, each with the whole vocabulary, and their gradient is
carried on to hidden states and head weight in the forward pass, so that a chunk's logits live only once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixcpt.distill.chunk import MEASURES, ChunkResult, cross_entropy_, distillation_
from mixcpt.distill.head import Head
from mixcpt.distill.objective import Objective
from mixcpt.mixture.rows import IGNORE_INDEX

DEFAULT_BUDGET_BYTES = 192 * 2**20
_MAX_ROWS = 512
"""More rows at once speed no matrix product up, but push a small vocabulary's buffers out of the cache."""


@dataclass(frozen=True)
class Teacher:
    """The teacher's hidden states, one for each of the student's, and its head."""

    hidden: Float[Tensor, "tokens teacher_hidden"]
    head: Head


@dataclass(frozen=True)
class LossOutput:
    loss: Float[Tensor, ""]
    sums: Float[Tensor, "sources measures"]
    """Per source, the sums of `chunk.MEASURES` over its scored tokens; not differentiable."""


def distillation_loss(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    labels: Int[Tensor, " tokens"],
    objective: Objective,
    *,
    normaliser: float,
    teacher: Teacher | None = None,
    source_ids: Int[Tensor, " tokens"] | None = None,
    num_sources: int = 1,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> LossOutput:
    """Returns the objective summed over the scored tokens and divided by `normaliser`, and the measures per source.

    Args:
        hidden: The student's last hidden states; the products with the head run in their type.
        head: The student's head; its gradient is summed in fp32, and skipped where the weight needs none.
        labels: The token that each hidden state has to predict, `IGNORE_INDEX` where it is not scored.
        objective: What is minimised.
        normaliser: Scored tokens of the whole optimiser step, over all micro-batches and devices.
        teacher: Needed where the objective has a KL term, unused otherwise.
        source_ids: Which source each token belongs to; source 0 if not given.
        num_sources: How many sources there are.
        budget_bytes: Bound on the memory of the buffers with a vocabulary axis.
    """
    if objective.needs_teacher and teacher is None:
        raise ValueError("an objective with a KL term needs a teacher")
    sources = torch.zeros_like(labels) if source_ids is None else source_ids
    used = teacher if objective.needs_teacher else None
    job = _Job(head, labels, objective, max(normaliser, 1.0), used, sources, num_sources, budget_bytes)
    loss, sums = _FusedLoss.apply(hidden, head.weight, job)
    return LossOutput(loss, sums)


@dataclass(frozen=True)
class _Job:
    head: Head
    labels: Int[Tensor, " tokens"]
    objective: Objective
    normaliser: float
    teacher: Teacher | None
    sources: Int[Tensor, " tokens"]
    num_sources: int
    budget_bytes: int

    @property
    def num_buffers(self) -> int:
        return (3 if self.teacher else 1) + bool(self.head.soft_cap)

    def rows_per_chunk(self, dtype: torch.dtype) -> int:
        row_bytes = self.num_buffers * self.head.weight.shape[0] * dtype.itemsize
        return min(_MAX_ROWS, max(1, self.budget_bytes // row_bytes))


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "tokens hidden"], weight: Float[Tensor, "vocab hidden"], job: _Job
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "sources measures"]]:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        gradients = _Gradients(
            torch.zeros_like(hidden) if needs_hidden else None,
            torch.zeros_like(weight, dtype=_work_dtype(hidden)) if needs_weight else None,
        )
        sums = _run(hidden, job, gradients)
        _, ce, kl, *_ = sums.sum(dim=0)
        loss = (job.objective.ce_weight * ce + job.objective.kl_weight * kl) / job.normaliser
        ctx.save_for_backward(gradients.hidden, gradients.weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(sums)
        return loss.to(_work_dtype(hidden)), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, ""], _: Any) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        if grad != 1:  # a copy of [vocab, hidden] that a training step does not need
            hidden = None if hidden is None else hidden * grad
            weight = None if weight is None else weight * grad
        return hidden, None if weight is None else weight.to(ctx.weight_dtype), None


@dataclass(frozen=True)
class _Gradients:
    hidden: Float[Tensor, "tokens hidden"] | None
    weight: Float[Tensor, "vocab hidden"] | None
    """In fp32 whatever the model's type: partial sums in bf16 would bias the training."""

    def add(
        self,
        rows: Int[Tensor, " rows"],
        hidden: Float[Tensor, "rows hidden"],
        logits: Float[Tensor, "rows vocab"],
        weight: Float[Tensor, "vocab hidden"],
        factor: float,
    ) -> None:
        """Carries the gradient of the logits, `factor * logits`, on to hidden states and head weight."""
        narrow = logits.to(hidden.dtype)
        if self.hidden is not None:
            self.hidden.index_copy_(0, rows, torch.mm(narrow, weight.to(hidden.dtype)).mul_(factor))
        if self.weight is not None and self.weight.dtype == hidden.dtype:
            self.weight.addmm_(narrow.T, hidden, alpha=factor)
        elif self.weight is not None:
            self.weight.add_(narrow.T @ hidden, alpha=factor)


def _run(hidden: Float[Tensor, "tokens hidden"], job: _Job, gradients: _Gradients) -> Float[Tensor, "sources measures"]:
    """Returns the sums per source, having written the gradients chunk by chunk."""
    sums = torch.zeros(job.num_sources, len(MEASURES), dtype=torch.float64, device=hidden.device)
    scored = (job.labels != IGNORE_INDEX).nonzero().squeeze(1)
    if len(scored) == 0:
        return sums
    dtype = _work_dtype(hidden)
    num_rows = min(len(scored), job.rows_per_chunk(dtype))
    shape = num_rows, job.head.weight.shape[0]
    buffers = [torch.empty(shape, dtype=dtype, device=hidden.device) for _ in range(job.num_buffers)]
    for rows in scored.split(num_rows):
        result = _chunk(hidden, rows, job, [buffer[: len(rows)] for buffer in buffers], gradients)
        sums.index_add_(0, job.sources[rows].long(), result.measures.double())
    return sums


def _chunk(
    hidden: Float[Tensor, "tokens hidden"],
    rows: Int[Tensor, " rows"],
    job: _Job,
    buffers: list[Tensor],
    gradients: _Gradients,
) -> ChunkResult:
    """Returns what the scored `rows` measure, their gradients added; `buffers` are of shape [rows, vocab]."""
    head, objective = job.head, job.objective
    row_hidden, labels = hidden.index_select(0, rows), job.labels.index_select(0, rows).long()
    student = head.logits(row_hidden, out=buffers[0])
    if head.soft_cap:
        torch.mul(student, student, out=buffers[-1])
    if job.teacher is None:
        result = cross_entropy_(student, labels, objective.ce_weight)
    else:
        teacher = job.teacher.head.logits(job.teacher.hidden.index_select(0, rows), out=buffers[1])
        result = distillation_(student, teacher, buffers[2], labels, objective)
    if head.soft_cap:  # the slope of the cap is 1 - tanh^2
        student.mul_(buffers[-1].mul_(-1 / head.soft_cap**2).add_(1))
    gradients.add(rows, row_hidden, student, head.weight, result.factor * head.logit_scale / job.normaliser)
    return result


def _work_dtype(hidden: Tensor) -> torch.dtype:
    """Returns the type of logits, statistics and the head's gradient: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(hidden.dtype, torch.float32)
