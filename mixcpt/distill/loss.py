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

from mixcpt.distill.buffers import DEFAULT_BUDGET_BYTES, Block, Chunk, Needs, empty_matrix, scored_chunks
from mixcpt.distill.cached import CachedTargets, cached_kl_
from mixcpt.distill.chunk import MEASURES, ChunkResult, cross_entropy_, forward_kl_, kernels_for
from mixcpt.distill.head import Head
from mixcpt.distill.mixture_divergence import mixture_divergence_, num_spares
from mixcpt.distill.objective import Objective
from mixcpt.errors import ConfigError


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
    if isinstance(used, Teacher):
        used = Teacher(used.hidden, used.head.to(used.hidden.dtype))
    job = _Job(
        head.to(hidden.dtype),
        labels,
        objective,
        max(normaliser, 1.0),
        used,
        weights,
        sources,
        num_sources,
        budget_bytes,
    )
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
        head, needs = head.to(hidden.dtype), Needs(1, 0, _copy_bytes(hidden))
        for chunk in scored_chunks(labels, len(head.weight), needs, found.dtype, budget_bytes):
            logits = head.logits(hidden.index_select(0, chunk.tokens), out=chunk.logits[0])
            ce = cross_entropy_(logits, labels.index_select(0, chunk.tokens).long(), ce_weight=1.0).ce
            found.index_copy_(0, chunk.tokens, ce)
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
    def is_capped(self) -> bool:
        return self.head.soft_cap != 0

    def needs(self, hidden: Float[Tensor, "tokens hidden"]) -> Needs:
        """Returns the matrices that a chunk takes; the last spare is for the slope of the soft cap."""
        if not isinstance(self.teacher, Teacher):
            return Needs(1, self.is_capped, _copy_bytes(hidden))
        spares = 0 if self.has_kernels(hidden) else num_spares(self.objective)
        return Needs(2, spares + self.is_capped, _copy_bytes(hidden))

    def has_kernels(self, hidden: Float[Tensor, "tokens hidden"]) -> bool:
        kernels = kernels_for(hidden.device, _work_dtype(hidden))
        return self.objective.divergence == "forward" and kernels is not None

    def rows(self, tokens: Int[Tensor, " rows"]) -> "_Rows":
        """Returns what belongs to the given tokens."""
        weights = None if self.weights is None else self.weights.index_select(0, tokens)
        return _Rows(
            tokens, self.labels.index_select(0, tokens).long(), self.sources.index_select(0, tokens).long(), weights
        )


@dataclass(frozen=True)
class _Rows:
    """Some tokens, and what belongs to each of them."""

    tokens: Int[Tensor, " rows"]
    labels: Int[Tensor, " rows"]
    sources: Int[Tensor, " rows"]
    weights: Float[Tensor, " rows"] | None

    def __getitem__(self, part: slice) -> "_Rows":
        weights = None if self.weights is None else self.weights[part]
        return _Rows(self.tokens[part], self.labels[part], self.sources[part], weights)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "tokens hidden"], weight: Float[Tensor, "vocab hidden"], job: _Job
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "sources measures"]]:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        gradients = _Gradients(
            torch.zeros_like(hidden) if needs_hidden else None,
            empty_matrix(weight.shape[0], weight.shape[1], _work_dtype(hidden), weight.device)
            if needs_weight
            else None,
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


@dataclass
class _Gradients:
    hidden: Float[Tensor, "tokens hidden"] | None
    weight: Float[Tensor, "vocab hidden"] | None
    """In fp32 whatever the model's type: partial sums in bf16 would bias the training."""
    is_weight_filled: bool = False
    """Until then its content is ignored, which saves filling it with zeros and reading them."""

    def add(
        self,
        rows: _Rows,
        hidden: Float[Tensor, "rows hidden"],
        logits: Float[Tensor, "rows vocab"],
        weight: Float[Tensor, "vocab hidden"],
        factor: float,
    ) -> None:
        """Carries the gradient of the logits, `factor * rows.weights * logits`, on to hidden states and head weight."""
        narrow = logits.to(hidden.dtype)
        # the weights go on the narrow side of both products, not on the vocabulary's
        row_weights = None if rows.weights is None else rows.weights.to(hidden.dtype).unsqueeze(1)
        if self.hidden is not None:
            gradient = torch.mm(narrow, weight).mul_(factor)
            self.hidden.index_copy_(0, rows.tokens, gradient if row_weights is None else gradient.mul_(row_weights))
        if self.weight is not None:
            self._add_weight(narrow, hidden if row_weights is None else hidden * row_weights, factor)

    def _add_weight(
        self, logits: Float[Tensor, "rows vocab"], hidden: Float[Tensor, "rows hidden"], factor: float
    ) -> None:
        assert self.weight is not None
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(logits.T, hidden, beta=int(self.is_weight_filled), alpha=factor)
        elif self.is_weight_filled:
            self.weight.add_(logits.T @ hidden, alpha=factor)
        else:
            self.weight.copy_(logits.T @ hidden).mul_(factor)
        self.is_weight_filled = True


def _run(hidden: Float[Tensor, "tokens hidden"], job: _Job, gradients: _Gradients) -> Float[Tensor, "sources measures"]:
    """Returns the sums per source, having written the gradients chunk by chunk."""
    sums = torch.zeros(job.num_sources, len(MEASURES), dtype=torch.float64, device=hidden.device)
    vocab = len(job.head.weight)
    for chunk in scored_chunks(job.labels, vocab, job.needs(hidden), _work_dtype(hidden), job.budget_bytes):
        _add_chunk(sums, gradients, hidden, chunk, job)
    if gradients.weight is not None and not gradients.is_weight_filled:
        gradients.weight.zero_()
    return sums


def _add_chunk(
    sums: Float[Tensor, "sources measures"],
    gradients: _Gradients,
    hidden: Float[Tensor, "tokens hidden"],
    chunk: Chunk,
    job: _Job,
) -> None:
    """Adds what the rows of a chunk measure, and their gradients."""
    head, teacher, rows = job.head, job.teacher, job.rows(chunk.tokens)
    row_hidden = hidden.index_select(0, chunk.tokens)
    student = head.logits(row_hidden, out=chunk.logits[0])
    if isinstance(teacher, Teacher):
        teacher.head.logits(teacher.hidden.index_select(0, chunk.tokens), out=chunk.logits[1])
    for block in chunk.blocks():
        of_block = rows[block.rows]
        result = _differentiate_capped_(block, of_block, job)
        sums.index_add_(0, of_block.sources, result.measures(job.objective, of_block.weights))
    factor = result.factor * head.logit_scale / job.normaliser  # the same in every block
    gradients.add(rows, row_hidden, student, head.weight, factor)


def _differentiate_capped_(block: Block, rows: _Rows, job: _Job) -> ChunkResult:
    """Returns what the rows measure; their logits turn into the gradient with respect to those before the soft cap."""
    if not job.is_capped:
        return _differentiate_(block.logits, block.spares, rows, job)
    student, slope = block.logits[0], block.spares[-1]
    torch.mul(student, student, out=slope)
    result = _differentiate_(block.logits, block.spares[:-1], rows, job)
    student.mul_(slope.mul_(-1 / job.head.soft_cap**2).add_(1))  # 1 - tanh^2
    return result


def _differentiate_(logits: list[Tensor], spares: list[Tensor], rows: _Rows, job: _Job) -> ChunkResult:
    """Returns what the rows measure; the student's logits turn into their gradient."""
    student, objective, teacher = logits[0], job.objective, job.teacher
    if teacher is None:
        return cross_entropy_(student, rows.labels, objective.ce_weight)
    if isinstance(teacher, CachedTargets):
        return cached_kl_(student, teacher.select(rows.tokens, student.dtype), rows.labels, objective)
    if objective.divergence == "forward":
        return forward_kl_(student, logits[1], next(iter(spares), None), rows.labels, objective)
    return mixture_divergence_(student, logits[1], spares, rows.labels, objective)


def _work_dtype(hidden: Tensor) -> torch.dtype:
    """Returns the type of logits, statistics and the head's gradient: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _copy_bytes(hidden: Tensor) -> int:
    """Returns the bytes per logit of a copy in the type of `hidden`, where that is not the type of the logits."""
    return 0 if hidden.dtype == _work_dtype(hidden) else hidden.dtype.itemsize
