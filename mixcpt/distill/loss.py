"""The fused loss: from hidden states to cross-entropy and distillation, never holding the logits of all tokens.

The scored rows are taken in chunks that fit a byte budget, each with the whole vocabulary, and their gradient is
carried on to hidden states and head weight in the forward pass, so that a chunk's logits live only once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixcpt.distill.cached import CachedTargets, cached_kl_
from mixcpt.distill.chunk import MEASURES, ChunkResult, cross_entropy_, forward_kl_
from mixcpt.distill.head import Head
from mixcpt.distill.mixture_divergence import mixture_divergence_, num_spares
from mixcpt.distill.objective import Objective
from mixcpt.errors import ConfigError
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
    teacher: Teacher | CachedTargets | None = None,
    token_weights: Float[Tensor, " tokens"] | None = None,
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
        token_weights: What the loss of each token is multiplied by, taken as constants; 1 if not given.
        source_ids: Which source each token belongs to; source 0 if not given.
        num_sources: How many sources there are.
        budget_bytes: Bound on the memory of the buffers with a vocabulary axis.

    Raises:
        ConfigError: If the objective asks for more than cached targets can tell.
    """
    if objective.needs_teacher and teacher is None:
        raise ValueError("an objective with a KL term needs a teacher")
    used = teacher if objective.needs_teacher else None
    if isinstance(used, CachedTargets):
        check_cacheable(objective)
    sources = torch.zeros_like(labels) if source_ids is None else source_ids
    weights = None if token_weights is None else token_weights.detach()
    job = _Job(head, labels, objective, max(normaliser, 1.0), used, weights, sources, num_sources, budget_bytes)
    loss, sums = _FusedLoss.apply(hidden, head.weight, job)
    return LossOutput(loss, sums)


def check_cacheable(objective: Objective) -> None:
    """Proves that a teacher's likeliest tokens, as they are at temperature 1, are all that the objective asks for.

    Raises:
        ConfigError: If they are not.
    """
    if objective.divergence != "forward" or objective.temperature != 1:
        raise ConfigError(
            "a cached teacher can be followed by forward KL at temperature 1 only, "
            f"found divergence {objective.divergence} at temperature {objective.temperature:g}",
            "change these two, or let the teacher run beside the student",
        )


def token_cross_entropy(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    labels: Int[Tensor, " tokens"],
    *,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> Float[Tensor, " tokens"]:
    """Returns the cross-entropy of each token in nats, without gradient, and 0 where it is not scored.

    Weights per token are made of it: exp(-cross-entropy) is the probability of the true token.
    """
    found = torch.zeros(len(labels), dtype=_work_dtype(hidden), device=hidden.device)
    with torch.no_grad():
        for rows, buffers in _chunks(labels, head, 1 + bool(head.soft_cap), found.dtype, budget_bytes):
            logits = head.logits(hidden.index_select(0, rows), out=buffers[0])
            ce = cross_entropy_(logits, labels.index_select(0, rows).long(), ce_weight=1.0).ce
            found.index_copy_(0, rows, ce)
    return found


@dataclass(frozen=True)
class _Job:
    head: Head
    labels: Int[Tensor, " tokens"]
    objective: Objective
    normaliser: float
    teacher: Teacher | CachedTargets | None
    weights: Float[Tensor, " tokens"] | None
    sources: Int[Tensor, " tokens"]
    num_sources: int
    budget_bytes: int

    @property
    def num_buffers(self) -> int:
        """Returns how many matrices of shape [rows, vocab] a chunk needs at once."""
        beside = 1 + num_spares(self.objective) if isinstance(self.teacher, Teacher) else 0
        return 1 + beside + bool(self.head.soft_cap)

    def weights_of(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, " rows"] | None:
        return None if self.weights is None else self.weights.index_select(0, rows)


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
        loss = sums[:, MEASURES.index("loss")].sum() / job.normaliser
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
        row_weights: Float[Tensor, " rows"] | None,
    ) -> None:
        """Carries the gradient of the logits, `factor * row_weights * logits`, on to hidden states and head weight."""
        narrow = logits.to(hidden.dtype)
        if row_weights is not None:  # on the narrow side of both products, not on the vocabulary's
            row_weights = row_weights.to(hidden.dtype).unsqueeze(1)
        if self.hidden is not None:
            gradient = torch.mm(narrow, weight.to(hidden.dtype)).mul_(factor)
            self.hidden.index_copy_(0, rows, gradient if row_weights is None else gradient.mul_(row_weights))
        if self.weight is not None:
            self._add_weight(narrow, hidden if row_weights is None else hidden * row_weights, factor)

    def _add_weight(
        self, logits: Float[Tensor, "rows vocab"], hidden: Float[Tensor, "rows hidden"], factor: float
    ) -> None:
        assert self.weight is not None
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(logits.T, hidden, alpha=factor)
        else:
            self.weight.add_(logits.T @ hidden, alpha=factor)


def _run(hidden: Float[Tensor, "tokens hidden"], job: _Job, gradients: _Gradients) -> Float[Tensor, "sources measures"]:
    """Returns the sums per source, having written the gradients chunk by chunk."""
    sums = torch.zeros(job.num_sources, len(MEASURES), dtype=torch.float64, device=hidden.device)
    for rows, buffers in _chunks(job.labels, job.head, job.num_buffers, _work_dtype(hidden), job.budget_bytes):
        result = _chunk(hidden, rows, job, buffers, gradients)
        sums.index_add_(0, job.sources[rows].long(), result.measures(job.objective, job.weights_of(rows)))
    return sums


def _chunks(
    labels: Int[Tensor, " tokens"], head: Head, num_buffers: int, dtype: torch.dtype, budget_bytes: int
) -> Iterator[tuple[Int[Tensor, " rows"], list[Tensor]]]:
    """Yields the scored rows in parts, with buffers of shape [rows, vocab], used over again, that fit the budget."""
    scored = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    if len(scored) == 0:
        return
    vocab = head.weight.shape[0]
    affordable = max(1, budget_bytes // (num_buffers * vocab * dtype.itemsize))
    shape = min(len(scored), _MAX_ROWS, affordable), vocab
    buffers = [torch.empty(shape, dtype=dtype, device=labels.device) for _ in range(num_buffers)]
    for rows in scored.split(shape[0]):
        yield rows, [buffer[: len(rows)] for buffer in buffers]


def _chunk(
    hidden: Float[Tensor, "tokens hidden"],
    rows: Int[Tensor, " rows"],
    job: _Job,
    buffers: list[Tensor],
    gradients: _Gradients,
) -> ChunkResult:
    """Returns what the scored `rows` measure, their gradients added; `buffers` are of shape [rows, vocab]."""
    head = job.head
    row_hidden = hidden.index_select(0, rows)
    student = head.logits(row_hidden, out=buffers[0])
    if head.soft_cap:
        torch.mul(student, student, out=buffers[-1])
    result = _differentiate_(student, rows, job, buffers[1 : len(buffers) - bool(head.soft_cap)])
    if head.soft_cap:  # the slope of the cap is 1 - tanh^2
        student.mul_(buffers[-1].mul_(-1 / head.soft_cap**2).add_(1))
    factor = result.factor * head.logit_scale / job.normaliser
    gradients.add(rows, row_hidden, student, head.weight, factor, job.weights_of(rows))
    return result


def _differentiate_(
    student: Float[Tensor, "rows vocab"], rows: Int[Tensor, " rows"], job: _Job, spares: list[Tensor]
) -> ChunkResult:
    """Returns what the rows measure; `student` turns from logits into their gradient."""
    objective, teacher, labels = job.objective, job.teacher, job.labels.index_select(0, rows).long()
    if teacher is None:
        return cross_entropy_(student, labels, objective.ce_weight)
    if isinstance(teacher, CachedTargets):
        return cached_kl_(student, teacher.select(rows, student.dtype), labels, objective)
    logits = teacher.head.logits(teacher.hidden.index_select(0, rows), out=spares[0])
    if objective.divergence == "forward":
        return forward_kl_(student, logits, spares[1], labels, objective)
    return mixture_divergence_(student, logits, spares[1:], labels, objective)


def _work_dtype(hidden: Tensor) -> torch.dtype:
    """Returns the type of logits, statistics and the head's gradient: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(hidden.dtype, torch.float32)
