"""The fused loss: cross-entropy and distillation from hidden states, without the logits of all tokens at once.

The scored rows are processed in chunks that fit a byte budget, each with the whole vocabulary. Their gradient is
propagated to hidden states and head weight in the forward pass, so a chunk's logits are needed only once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.buffers import DEFAULT_BUDGET_BYTES, Block, Chunk, Needs, empty_matrix, scored_chunks
from mixcpt.distill.cached import CachedTargets, cached_kl_
from mixcpt.distill.chunk import MEASURES, ChunkResult, cross_entropy_, forward_kl_, kernels_for
from mixcpt.distill.model import Head
from mixcpt.distill.targets import Labels, Logits, PerRow
from mixcpt.errors import ConfigError
from mixcpt.mixture.rows import IGNORE_INDEX

Hidden = Float[Tensor, "tokens hidden"]
Sums = Float[Tensor, "sources measures"]
PerToken = Float[Tensor, " tokens"]
IntPerToken = Int[Tensor, " tokens"]


@dataclass(frozen=True)
class Teacher:
    """The teacher's hidden states, one for each of the student's, and its head."""

    hidden: Float[Tensor, "tokens teacher_hidden"]
    head: Head


@dataclass(frozen=True)
class LossOutput:
    """The loss, and its measures per source."""

    loss: Float[Tensor, ""]
    sums: Sums
    """Sums of `chunk.MEASURES` over a source's scored tokens; not differentiable."""


def distillation_loss(
    hidden: Hidden,
    head: Head,
    labels: IntPerToken,
    objective: ObjectiveConfig,
    *,
    normaliser: float,
    teacher: Teacher | CachedTargets | None = None,
    token_weights: PerToken | None = None,
    source_ids: IntPerToken | None = None,
    num_sources: int = 1,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> LossOutput:
    """Return the objective summed over the scored tokens and divided by `normaliser`, and the measures per source.

    Args:
        hidden: The student's last hidden states; the products with the head run in their type.
        head: The student's head; its gradient is summed in fp32, and skipped if the weight is frozen.
        labels: The token that each hidden state has to predict, or `IGNORE_INDEX` if it is not scored.
        normaliser: Scored tokens of the whole optimiser step, over all micro-batches and devices.
        teacher: The teacher's predictions; required if the objective has a KL term, otherwise unused.
        token_weights: Constant factor per token of its loss; 1 if not given.
        source_ids: Source per token, below `num_sources`; 0 if not given.
        budget_bytes: Maximum memory of the buffers with a vocabulary axis.

    Raises:
        ConfigError: If the teacher is cached and the temperature is not 1.
    """
    if objective.needs_teacher and teacher is None:
        raise ValueError("an objective with a KL term needs a teacher")
    teacher = teacher if objective.needs_teacher else None
    if isinstance(teacher, CachedTargets) and objective.temperature != 1:
        raise ConfigError(
            f"a cached teacher holds predictions at temperature 1 only, found temperature {objective.temperature:g}",
            "set the temperature to 1, or use a frozen teacher",
        )
    if isinstance(teacher, Teacher):
        teacher = Teacher(teacher.hidden, teacher.head.to(teacher.hidden.dtype))
    job = _Job(
        head=head.to(hidden.dtype),
        labels=labels,
        objective=objective,
        normaliser=max(normaliser, 1.0),
        teacher=teacher,
        weights=None if token_weights is None else token_weights.detach(),
        sources=torch.zeros_like(labels) if source_ids is None else source_ids,
        num_sources=num_sources,
        budget_bytes=budget_bytes,
    )
    loss, sums = _FusedLoss.apply(hidden, head.weight, job)
    return LossOutput(loss, sums)


def token_cross_entropy(
    hidden: Hidden, head: Head, labels: IntPerToken, *, budget_bytes: int = DEFAULT_BUDGET_BYTES
) -> PerToken:
    """Return the cross-entropy per token in nats, without gradient; 0 if the token is not scored.

    exp(-cross-entropy) is the probability of the true token, from which token weights are computed.
    """
    dtype = _work_dtype(hidden)
    losses = torch.zeros(len(labels), dtype=dtype, device=hidden.device)
    with torch.no_grad():
        head = head.to(hidden.dtype)
        needs = Needs(num_logits=1, num_spares=0, copy_bytes=_copy_bytes(hidden))
        for chunk in scored_chunks(labels, len(head.weight), needs, dtype=dtype, budget_bytes=budget_bytes):
            logits = head.logits(hidden.index_select(0, chunk.tokens), out=chunk.logits[0])
            chunk_labels = labels.index_select(0, chunk.tokens).long()
            losses.index_copy_(0, chunk.tokens, cross_entropy_(logits, chunk_labels, ce_weight=1.0).ce)
    return losses


def talr_weights(cross_entropy: PerToken, labels: IntPerToken, segments: IntPerToken, floor: float) -> PerToken:
    """Return the weight max(p^(1 / tau), floor) per true token, as constants: improbable tokens count less.

    p = exp(-cross_entropy), and tau is the median of the mean cross-entropy of the packed documents, `segments`, that
    have scored tokens (docs/algorithms.md#token-weights).
    """
    scored = labels != IGNORE_INDEX
    num_segments = int(segments.max()) + 1
    # sum of the cross-entropy and number of scored tokens, per document
    sums = torch.zeros(2, num_segments, dtype=torch.float64, device=cross_entropy.device)
    sums[0].index_add_(0, segments[scored], cross_entropy[scored].double())
    sums[1].index_add_(0, segments[scored], torch.ones_like(cross_entropy[scored], dtype=torch.float64))
    # tau = median of the mean cross-entropy
    means = (sums[0] / sums[1])[sums[1] > 0]
    if len(means) == 0:
        return torch.ones_like(cross_entropy)
    tau = means.median().clamp_min(torch.finfo(torch.float32).tiny)
    # p^(1 / tau) = exp(-cross_entropy / tau)
    return torch.exp(-cross_entropy / tau.to(cross_entropy.dtype)).clamp_min(floor)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Constants of one evaluation of the loss."""

    head: Head
    labels: IntPerToken
    objective: ObjectiveConfig
    normaliser: float
    teacher: Teacher | CachedTargets | None
    weights: PerToken | None
    sources: IntPerToken
    num_sources: int
    budget_bytes: int

    def needs(self, hidden: Hidden) -> Needs:
        """Return the buffers that a chunk needs; the last spare holds the slope of the soft cap."""
        num_logits, num_spares = 1, 0
        if isinstance(self.teacher, Teacher):
            has_kernels = kernels_for(hidden.device, _work_dtype(hidden)) is not None
            num_logits, num_spares = 2, int(not has_kernels)
        return Needs(num_logits, num_spares + bool(self.head.soft_cap), _copy_bytes(hidden))

    def rows(self, tokens: Int[Tensor, " rows"]) -> "_Rows":
        """Return the labels, sources and weights of some tokens."""
        return _Rows(
            tokens=tokens,
            labels=self.labels.index_select(0, tokens).long(),
            sources=self.sources.index_select(0, tokens).long(),
            weights=None if self.weights is None else self.weights.index_select(0, tokens),
        )


@dataclass(frozen=True)
class _Rows:
    """Some tokens with their labels, sources and weights."""

    tokens: Int[Tensor, " rows"]
    labels: Labels
    sources: Int[Tensor, " rows"]
    weights: PerRow | None

    def __getitem__(self, part: slice) -> "_Rows":
        weights = None if self.weights is None else self.weights[part]
        return _Rows(self.tokens[part], self.labels[part], self.sources[part], weights=weights)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Hidden, weight: Float[Tensor, "vocab hidden"], job: _Job
    ) -> tuple[Float[Tensor, ""], Sums]:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        dtype, (vocab, width) = _work_dtype(hidden), weight.shape
        gradients = _Gradients(
            hidden=torch.zeros_like(hidden) if needs_hidden else None,
            weight=empty_matrix(vocab, width, dtype, device=weight.device) if needs_weight else None,
        )
        sums = _run(hidden, job, gradients)
        loss = sums[:, MEASURES.index("loss")].sum() / job.normaliser
        ctx.save_for_backward(gradients.hidden, gradients.weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(sums)
        return loss.to(dtype), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, ""], _: Any) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        if grad != 1:  # avoids a copy of [vocab, hidden] in training, where grad is 1
            hidden = None if hidden is None else hidden * grad
            weight = None if weight is None else weight * grad
        return hidden, None if weight is None else weight.to(ctx.weight_dtype), None


@dataclass
class _Gradients:
    """Accumulated gradients; None if the tensor needs none."""

    hidden: Hidden | None
    weight: Float[Tensor, "vocab hidden"] | None
    """Gradient of the head in fp32, whatever the model's type: partial sums in bf16 would bias the training."""
    is_weight_filled: bool = False
    """Whether `weight` holds a first sum. Until then its content is ignored, which saves filling it with zeros."""

    def add(
        self,
        rows: _Rows,
        hidden: Float[Tensor, "rows hidden"],
        logits: Logits,
        *,
        weight: Float[Tensor, "vocab hidden"],
        factor: float,
    ) -> None:
        """Propagate the gradient of the logits, `factor * rows.weights * logits`, to hidden states and head weight."""
        narrow = logits.to(hidden.dtype)
        # both products apply the token weights to their narrow side [rows, hidden], not to [rows, vocab]
        row_weights = None if rows.weights is None else rows.weights.to(hidden.dtype).unsqueeze(1)
        if self.hidden is not None:
            gradient = torch.mm(narrow, weight).mul_(factor)
            self.hidden.index_copy_(0, rows.tokens, gradient if row_weights is None else gradient.mul_(row_weights))
        if self.weight is not None:
            self._add_weight(narrow, hidden if row_weights is None else hidden * row_weights, factor)

    def _add_weight(self, logits: Logits, hidden: Float[Tensor, "rows hidden"], factor: float) -> None:
        assert self.weight is not None
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(logits.T, hidden, beta=int(self.is_weight_filled), alpha=factor)
        elif self.is_weight_filled:
            self.weight.add_(logits.T @ hidden, alpha=factor)
        else:
            self.weight.copy_(logits.T @ hidden).mul_(factor)
        self.is_weight_filled = True


def _run(hidden: Hidden, job: _Job, gradients: _Gradients) -> Sums:
    """Write the gradients chunk by chunk, and return the sums per source."""
    sums = torch.zeros(job.num_sources, len(MEASURES), dtype=torch.float64, device=hidden.device)
    vocab, dtype = len(job.head.weight), _work_dtype(hidden)
    for chunk in scored_chunks(job.labels, vocab, job.needs(hidden), dtype=dtype, budget_bytes=job.budget_bytes):
        _add_chunk(sums, gradients, hidden, chunk=chunk, job=job)
    if gradients.weight is not None and not gradients.is_weight_filled:
        gradients.weight.zero_()
    return sums


def _add_chunk(sums: Sums, gradients: _Gradients, hidden: Hidden, *, chunk: Chunk, job: _Job) -> None:
    """Add the measures and the gradients of a chunk's rows."""
    head, teacher, rows = job.head, job.teacher, job.rows(chunk.tokens)
    row_hidden = hidden.index_select(0, chunk.tokens)
    # logits of student and teacher
    student = head.logits(row_hidden, out=chunk.logits[0])
    if isinstance(teacher, Teacher):
        teacher.head.logits(teacher.hidden.index_select(0, chunk.tokens), out=chunk.logits[1])
    # student <- gradient of the unscaled logits / factor, block by block
    for block in chunk.blocks():
        block_rows = rows[block.rows]
        result = _differentiate_capped_(block, block_rows, job)
        sums.index_add_(0, block_rows.sources, result.measures(job.objective, block_rows.weights))
    # d logits / d product = logit_scale; result.factor is the same in every block
    factor = result.factor * head.logit_scale / job.normaliser
    gradients.add(rows, row_hidden, student, weight=head.weight, factor=factor)


def _differentiate_capped_(block: Block, rows: _Rows, job: _Job) -> ChunkResult:
    """Compute the measures; overwrite the logits with the gradient with respect to the logits before the soft cap."""
    if not job.head.soft_cap:
        return _differentiate_(block.logits, block.spares, rows, job=job)
    student, slope = block.logits[0], block.spares[-1]
    # slope <- s^2, because s is overwritten
    torch.mul(student, student, out=slope)
    result = _differentiate_(block.logits, block.spares[:-1], rows, job=job)
    # s = cap * tanh(x / cap), so ds / dx = 1 - tanh^2 = 1 - s^2 / cap^2
    student.mul_(slope.mul_(-1 / job.head.soft_cap**2).add_(1))
    return result


def _differentiate_(logits: list[Tensor], spares: list[Tensor], rows: _Rows, *, job: _Job) -> ChunkResult:
    """Compute the measures; overwrite the student's logits with their gradient."""
    student, labels, objective, teacher = logits[0], rows.labels, job.objective, job.teacher
    if teacher is None:
        return cross_entropy_(student, labels, objective.ce_weight)
    if isinstance(teacher, CachedTargets):
        return cached_kl_(student, teacher.select(rows.tokens, student.dtype), labels=labels, objective=objective)
    return forward_kl_(student, logits[1], spares[0] if spares else None, labels=labels, objective=objective)


def _work_dtype(hidden: Tensor) -> torch.dtype:
    """Return the type of logits, measures and the head's gradient: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _copy_bytes(hidden: Tensor) -> int:
    """Return the bytes per logit of a copy in the type of `hidden`; 0 if that is the type of the logits."""
    return 0 if hidden.dtype == _work_dtype(hidden) else hidden.dtype.itemsize
