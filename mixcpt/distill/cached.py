"""Forward KL to a cached teacher that keeps only its likeliest tokens, computed in place over a chunk's logits.

The vocabulary is divided into buckets: one for each of the teacher's top k tokens, one for the true token y if it is
not among them, and one for all remaining tokens (the rest). The divergence is computed over buckets at T = 1. It is
never more than the divergence over tokens, and equal to it if k is the vocabulary:

    KL = sum(q_i * log(q_i / p_i)) + q_rest * log(q_rest / p_rest)
    gradient: p_i - q_i in a bucket of one token; p_j * (1 - q_rest / p_rest) = r_j * (p_rest - q_rest) in the rest

with r the student's softmax over the rest only. Nothing is divided by p_rest, which may be 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.chunk import ChunkResult, softmax_, weighted
from mixcpt.distill.targets import TRANSFORMS, Choices, Column, Correction, Labels, Logits, PerRow


@dataclass(frozen=True)
class CachedTargets:
    """A teacher's stored predictions at temperature 1, one row for each of the student's hidden states.

    The log-probabilities are finite. The probabilities of the k tokens, and of a true token that is not among them, sum
    to at most 1; the remainder is the rest. Rows that are not scored may hold any values.
    """

    token_ids: Int[Tensor, "tokens topk"]
    """The teacher's likeliest tokens, no token twice, in any order."""
    log_probs: Float[Tensor, "tokens topk"]
    label_log_probs: Float[Tensor, " tokens"]
    """Log-probability of the true token. The swap needs it even if the token is unlikely."""

    def select(self, rows: Int[Tensor, " rows"], dtype: torch.dtype) -> "CachedTargets":
        """Return some of the rows, the log-probabilities in `dtype`."""
        token_ids = self.token_ids.index_select(0, rows).long()
        log_probs = self.log_probs.index_select(0, rows).to(dtype)
        label_log_probs = self.label_log_probs.index_select(0, rows).to(dtype)
        return CachedTargets(token_ids, log_probs, label_log_probs)


def cached_kl_(student: Logits, cached: CachedTargets, *, labels: Labels, objective: ObjectiveConfig) -> ChunkResult:
    """Compute CE and KL over buckets; overwrite the student's logits with their gradient."""
    index = labels.unsqueeze(1)
    # q over the buckets
    target = _target(cached, index, objective=objective, vocab=student.shape[1])
    # s_y, and s of the top tokens other than y
    at_label = student.gather(1, index)
    at_others = student.gather(1, cached.token_ids).masked_fill_(~target.others, -torch.inf)
    # student <- r, the softmax over the rest; lowest instead of -inf keeps r finite if no token is left
    lowest = torch.finfo(student.dtype).min
    student.scatter_(1, cached.token_ids, lowest).scatter_(1, index, lowest)
    rest = softmax_(student)  # logsumexp of the rest
    # logsumexp(s) over all buckets
    normaliser = torch.logaddexp(rest, torch.cat([at_others, at_label], dim=1).logsumexp(dim=1))
    # log p of each bucket
    log_p = _Buckets(at_others - normaliser.unsqueeze(1), at_label.squeeze(1) - normaliser, rest - normaliser)
    # student <- gradient
    _gradient_(student, cached.token_ids, index, log_p=log_p, target=target, objective=objective)
    return ChunkResult.taught(-log_p.label, target.kl(log_p), target.choices, target.correction)


@dataclass(frozen=True)
class _Buckets:
    """One number per bucket."""

    top: Float[Tensor, "rows topk"]
    """Meaningless at the true token, which has a bucket of its own."""
    label: PerRow
    rest: PerRow


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The corrected teacher of a chunk."""

    q: _Buckets
    log_top: Float[Tensor, "rows topk"]
    """Logarithm of q.top."""
    others: Bool[Tensor, "rows topk"]
    """Whether the top token is another token than the true one."""
    choices: Choices
    correction: Correction

    def kl(self, log_p: _Buckets) -> PerRow:
        """Return KL(q || p) over the buckets."""
        q = self.q
        # sum(q_i * log(q_i / p_i)) over the top tokens other than y
        top = (q.top * (self.log_top - log_p.top)).masked_fill(~self.others, 0).sum(dim=1)
        # q_y * log(q_y / p_y)
        label = q.label * (self.correction.log_label - log_p.label)
        # q_rest * log(q_rest / p_rest)
        rest = torch.where(q.rest > 0, q.rest * (q.rest.log() - log_p.rest), 0)
        return top + label + rest


def _target(cached: CachedTargets, index: Column, *, objective: ObjectiveConfig, vocab: int) -> _Target:
    """Return the corrected teacher for the true tokens `index`."""
    others = cached.token_ids != index
    first = _first(cached)  # column of a
    log_label, log_first = cached.label_log_probs, cached.log_probs.gather(1, first).squeeze(1)
    is_top = (cached.token_ids.gather(1, first) == index).squeeze(1)
    choices = Choices(
        q_label=log_label.exp(), q_top=log_first.exp(), log_label=log_label, log_top=log_first, is_top=is_top
    )
    correction = TRANSFORMS[objective.transform](choices, objective.margin)
    # q0_rest = 1 - sum(q0_i) - q0_y; rounding must not give it mass if every token has its own bucket
    q0 = cached.log_probs.exp()
    rest = 1 - q0.masked_fill(~others, 0).sum(dim=1) - choices.q_label
    has_rest = others.sum(dim=1) + 1 < vocab
    rest = rest.clamp_min(0) * has_rest
    # log q_i = log(scale * q0_i), and the corrected log q[a] in the column of a
    log_scaled = cached.log_probs + correction.log_scale.unsqueeze(1)
    log_top = log_scaled.scatter(1, first, correction.log_top.unsqueeze(1))
    # q_rest = scale * q0_rest
    scale = 1.0 if correction.scale is None else correction.scale
    q = _Buckets(top=log_top.exp(), label=correction.log_label.exp(), rest=scale * rest)
    return _Target(q=q, log_top=log_top, others=others, choices=choices, correction=correction)


def _first(cached: CachedTargets) -> Column:
    """Return the column of the teacher's first choice: the smallest token id of equal maxima, as in the dense loss."""
    largest = cached.log_probs == cached.log_probs.amax(dim=1, keepdim=True)
    beyond = torch.iinfo(cached.token_ids.dtype).max
    return cached.token_ids.masked_fill(~largest, beyond).argmin(dim=1, keepdim=True)


def _gradient_(
    student: Logits,
    token_ids: Int[Tensor, "rows topk"],
    index: Column,
    *,
    log_p: _Buckets,
    target: _Target,
    objective: ObjectiveConfig,
) -> None:
    """Overwrite `student`, the softmax r over the rest, with ce * (p - onehot(y)) + pull * (gradient of KL)."""
    ce, q = objective.ce_weight, target.q
    # pull = kl_weight * weight
    pull = weighted(torch.full_like(log_p.label, objective.kl_weight), target.correction)
    # rest: r_j * ((ce + pull) * p_rest - pull * q_rest)
    student.mul_(((ce + pull) * log_p.rest.exp() - pull * q.rest).unsqueeze(1))
    # top tokens: (ce + pull) * p_i - pull * q_i
    at_top = (ce + pull).unsqueeze(1) * log_p.top.exp() - pull.unsqueeze(1) * q.top
    # true token: (ce + pull) * p_y - pull * q_y - ce; written last, because y may be a top token too
    at_label = (ce + pull) * log_p.label.exp() - pull * q.label - ce
    student.scatter_(1, token_ids, at_top).scatter_(1, index, at_label.unsqueeze(1))
