"""Forward KL to a teacher of which only the likeliest tokens were kept, written in place over a chunk's logits.

The vocabulary falls into buckets: each of the teacher's top k tokens, the true token y where it is not among them, and
all the rest together. The divergence is that of the buckets (never more than that of the tokens, and equal to it where
k is the vocabulary), T = 1:

    KL = sum(q_i * log(q_i / p_i)) + q_rest * log(q_rest / p_rest)
    gradient: p_i - q_i in a bucket of its own, p_j * (1 - q_rest / p_rest) = r_j * (p_rest - q_rest) in the rest,

r being the student's softmax over the rest alone: nothing is divided by p_rest, which may be 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mixcpt.distill.chunk import ChunkResult, softmax_, weighted
from mixcpt.distill.objective import Objective
from mixcpt.distill.targets import TRANSFORMS, Choices, Correction


@dataclass(frozen=True)
class CachedTargets:
    """What was kept of a teacher's predictions at temperature 1, one row for each of the student's hidden states.

    The log-probabilities are finite. Those of the k tokens and of a true token outside of them sum to at most 1; what
    is missing is the rest. Rows that are not scored may hold anything.
    """

    token_ids: Int[Tensor, "tokens topk"]
    """The teacher's likeliest tokens, no token twice, in any order."""
    log_probs: Float[Tensor, "tokens topk"]
    label_log_probs: Float[Tensor, " tokens"]
    """Of the true token: the swap needs it, however unlikely it is."""

    def select(self, rows: Int[Tensor, " rows"], dtype: torch.dtype) -> "CachedTargets":
        """Returns the given rows, the log-probabilities in `dtype`."""
        ids = self.token_ids.index_select(0, rows).long()
        log_probs, of_label = self.log_probs.index_select(0, rows), self.label_log_probs.index_select(0, rows)
        return CachedTargets(ids, log_probs.to(dtype), of_label.to(dtype))


def cached_kl_(
    student: Float[Tensor, "rows vocab"], cached: CachedTargets, labels: Int[Tensor, " rows"], objective: Objective
) -> ChunkResult:
    """Returns what CE and KL measure; `student` turns from logits into their gradient."""
    index = labels.unsqueeze(1)
    target = _target(cached, index, objective, student.shape[1])
    at_label = student.gather(1, index)
    masked = student.gather(1, cached.token_ids).masked_fill_(~target.others, -torch.inf)
    lowest = torch.finfo(student.dtype).min  # not -inf: where no token is left, the softmax of the rest stays finite
    rest = softmax_(student.scatter_(1, cached.token_ids, lowest).scatter_(1, index, lowest))
    normaliser = torch.logaddexp(rest, torch.cat([masked, at_label], dim=1).logsumexp(dim=1))
    log_p = _Buckets(masked - normaliser.unsqueeze(1), at_label.squeeze(1) - normaliser, rest - normaliser)
    _gradient_(student, cached.token_ids, index, log_p, target, objective)
    choices = target.choices
    correct, gap = choices.is_top.to(rest.dtype), choices.q_top - choices.q_label
    return ChunkResult(-log_p.label, weighted(target.kl(log_p), target.correction), correct, gap, 1.0)


@dataclass(frozen=True)
class _Buckets:
    """One number a bucket."""

    top: Float[Tensor, "rows topk"]
    """Means nothing at the true token, which has a bucket of its own."""
    label: Float[Tensor, " rows"]
    rest: Float[Tensor, " rows"]


@dataclass(frozen=True)
class _Target:
    """The corrected teacher of a chunk."""

    q: _Buckets
    log_top: Float[Tensor, "rows topk"]
    """log(q.top)"""
    others: Bool[Tensor, "rows topk"]
    """Which of the top tokens are not the true one."""
    choices: Choices
    correction: Correction

    def kl(self, log_p: _Buckets) -> Float[Tensor, " rows"]:
        """Returns KL(q || p) over the buckets."""
        top = (self.q.top * (self.log_top - log_p.top)).masked_fill(~self.others, 0).sum(dim=1)
        label = self.q.label * (self.correction.log_label - log_p.label)
        rest = torch.where(self.q.rest > 0, self.q.rest * (self.q.rest.log() - log_p.rest), 0)
        return top + label + rest


def _target(cached: CachedTargets, index: Int[Tensor, "rows 1"], objective: Objective, vocab: int) -> _Target:
    """Returns the corrected teacher for the true tokens `index`."""
    others = cached.token_ids != index
    first = _first(cached)
    choices = _choices(cached, first, index)
    change = TRANSFORMS[objective.transform](choices, objective.margin)
    q0 = cached.log_probs.exp()
    rest = 1 - q0.masked_fill(~others, 0).sum(dim=1) - choices.q_label
    rest = rest.clamp_min(0) * (others.sum(dim=1) + 1 < vocab)  # what rounding leaves over is no token's
    log_top = (cached.log_probs + change.log_scale.unsqueeze(1)).scatter(1, first, change.log_top.unsqueeze(1))
    scale = 1.0 if change.scale is None else change.scale
    buckets = _Buckets(log_top.exp(), change.log_label.exp(), scale * rest)
    return _Target(buckets, log_top, others, choices, change)


def _first(cached: CachedTargets) -> Int[Tensor, "rows 1"]:
    """Returns the column of the teacher's first choice: of equal maxima the smallest token id, as in the dense loss."""
    largest = cached.log_probs == cached.log_probs.amax(dim=1, keepdim=True)
    beyond = torch.iinfo(cached.token_ids.dtype).max
    return cached.token_ids.masked_fill(~largest, beyond).argmin(dim=1, keepdim=True)


def _choices(cached: CachedTargets, first: Int[Tensor, "rows 1"], index: Int[Tensor, "rows 1"]) -> Choices:
    log_label, log_top = cached.label_log_probs, cached.log_probs.gather(1, first).squeeze(1)
    is_top = (cached.token_ids.gather(1, first) == index).squeeze(1)
    return Choices(log_label.exp(), log_top.exp(), log_label, log_top, is_top)


def _gradient_(
    student: Float[Tensor, "rows vocab"],
    token_ids: Int[Tensor, "rows topk"],
    index: Int[Tensor, "rows 1"],
    log_p: _Buckets,
    target: _Target,
    objective: Objective,
) -> None:
    """Turns `student` from the softmax over the rest into the gradient."""
    ce = objective.ce_weight
    pull = weighted(torch.full_like(log_p.label, objective.kl_weight), target.correction)
    student.mul_(((ce + pull) * log_p.rest.exp() - pull * target.q.rest).unsqueeze(1))
    at_top = (ce + pull).unsqueeze(1) * log_p.top.exp() - pull.unsqueeze(1) * target.q.top
    at_label = (ce + pull) * log_p.label.exp() - pull * target.q.label - ce
    student.scatter_(1, token_ids, at_top).scatter_(1, index, at_label.unsqueeze(1))
