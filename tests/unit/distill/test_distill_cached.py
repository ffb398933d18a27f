"""Forward KL to cached targets, against distributions over buckets in float64."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.cached import CachedTargets
from mixcpt.distill.loss import LossOutput, Teacher, distillation_loss
from mixcpt.distill.model import Head
from mixcpt.errors import ConfigError
from mixcpt.mixture.rows import IGNORE_INDEX
from tests.unit.distill.objectives import terms

TOKENS, HIDDEN, VOCAB = 31, 6, 19
TRANSFORMS = ("none", "swap", "margin", "threshold", "mask")


def kept(teacher: Tensor, labels: Tensor, topk: int) -> CachedTargets:
    """Return the cached targets of these logits, the ids in random order."""
    log_probs = teacher.log_softmax(dim=1)
    top = log_probs.topk(topk, dim=1)
    order = torch.randperm(topk, generator=torch.Generator().manual_seed(topk))
    of_label = log_probs.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    return CachedTargets(top.indices[:, order], top.values[:, order], of_label)


class Case:
    """A student, and a teacher whose first choice is right in a third of the rows."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.hidden, self.weight = normal(TOKENS, HIDDEN).requires_grad_(), normal(VOCAB, HIDDEN).requires_grad_()
        self.teacher_logits = 2 * normal(TOKENS, VOCAB)
        self.labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
        self.labels[::3] = self.teacher_logits.argmax(dim=1)[::3]
        self.labels[5::8] = IGNORE_INDEX

    def cached(self, objective: ObjectiveConfig, topk: int, head: Head | None = None, **more: Any) -> LossOutput:
        teacher = kept(self.teacher_logits, self.labels, topk)
        head = head or Head(self.weight)
        return distillation_loss(self.hidden, head, self.labels, objective, normaliser=17.0, teacher=teacher, **more)

    def dense(self, objective: ObjectiveConfig) -> LossOutput:
        teacher = Teacher(torch.eye(TOKENS, dtype=self.hidden.dtype), Head(self.teacher_logits.T.contiguous()))
        return distillation_loss(
            self.hidden, Head(self.weight), self.labels, objective, normaliser=17.0, teacher=teacher
        )

    def plain(self, objective: ObjectiveConfig, topk: int, head: Head | None = None) -> Tensor:
        head = head or Head(self.weight)
        logits = head.logit_scale * (self.hidden.double() @ head.weight.double().T)
        if head.soft_cap:
            logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
        rows = zip(logits, self.teacher_logits.double(), self.labels.tolist(), strict=True)
        return torch.stack([plain_row(s, z, y, objective, topk) for s, z, y in rows if y != IGNORE_INDEX])


def plain_row(s: Tensor, z: Tensor, y: int, objective: ObjectiveConfig, topk: int) -> Tensor:
    """Return the loss of one token: whole distributions first, then their buckets."""
    q, counts = plain_target(z, y, objective)
    tokens = set(z.topk(topk).indices.tolist()) | {y}
    member = torch.tensor([token in tokens for token in range(len(z))])
    p = s.softmax(0)
    buckets = [torch.cat([x[member], x[~member].sum().reshape(-1)[: int((~member).any())]]) for x in (q, p)]
    kl = (buckets[0] * (buckets[0].log() - buckets[1].log())).sum()
    return objective.ce_weight * functional.cross_entropy(s, torch.tensor(y)) + objective.kl_weight * kl * counts


def plain_target(z: Tensor, y: int, objective: ObjectiveConfig) -> tuple[Tensor, float]:
    """Return q, and the weight of the row's divergence (0 or 1)."""
    q, m, a = z.softmax(0), objective.margin, int(z.argmax())
    if objective.transform == "swap":
        q = q.clone()
        q[[y, a]] = q[[a, y]]
    if objective.transform == "threshold":
        d = float(q[a] - q[y])
        m = min(1.0, m / (1 - float(q[y]))) if a == y else (d + m) / (1 + d)
    if objective.transform in ("margin", "threshold"):
        q = (1 - m) * q + m * functional.one_hot(torch.tensor(y), len(z)).double()
    return q, float(objective.transform != "mask" or a == y)


def assert_same(actual: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Assert equal losses, and equal gradients relative to their norms."""
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-6, atol=1e-6)
    gradients, wanted = torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert (gradient.double() - reference.double()).norm() <= 1e-6 * reference.double().norm()


@pytest.mark.parametrize(("transform", "topk"), list(product(TRANSFORMS, (1, 4, VOCAB - 1, VOCAB))))
@pytest.mark.parametrize("ce_weight", [0.0, 0.3])
def test_loss_and_gradients_equal_the_buckets_of_full_logits(transform: str, topk: int, ce_weight: float) -> None:
    case, objective = Case(), terms(ce_weight, 0.7, transform, margin=0.05)
    output = case.cached(objective, topk, budget_bytes=6 * VOCAB * 4)
    assert_same(output.loss, case.plain(objective, topk).sum() / 17, (case.hidden, case.weight))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_whole_vocabulary_equals_the_dense_loss_in_all_that_is_measured(transform: str) -> None:
    case, objective = Case(), terms(0.4, 0.6, transform, margin=0.05)
    dense, cached = case.dense(objective), case.cached(objective, VOCAB)
    torch.testing.assert_close(cached.sums, dense.sums, rtol=1e-6, atol=1e-6)
    assert_same(cached.loss, dense.loss, (case.hidden, case.weight))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("topk", [3, VOCAB])
def test_gradients_equal_finite_differences(transform: str, topk: int) -> None:
    case, objective = Case(torch.float64), terms(0.3, 0.7, transform)
    targets = kept(case.teacher_logits, case.labels, topk)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return distillation_loss(hidden, Head(weight), case.labels, objective, normaliser=3.0, teacher=targets).loss

    assert torch.autograd.gradcheck(loss, (case.hidden, case.weight))


@pytest.mark.parametrize(("logit_scale", "soft_cap"), [(0.25, 0.0), (1.0, 3.0), (0.5, 2.0)])
def test_scaled_and_capped_logits_are_honoured(logit_scale: float, soft_cap: float) -> None:
    case, objective = Case(), terms(0.4, 0.6, "swap")
    head = Head(case.weight, logit_scale, soft_cap)
    output = case.cached(objective, 4, head, budget_bytes=5 * 2 * VOCAB * 4)
    assert_same(output.loss, case.plain(objective, 4, head).sum() / 17, (case.hidden, case.weight))


def test_frozen_head_and_token_weights_work_as_with_a_dense_teacher() -> None:
    case, objective = Case(), terms(0.4, 0.6, "swap")
    weights = torch.linspace(0.1, 1, TOKENS)
    output = case.cached(objective, 4, Head(case.weight.detach()), token_weights=weights)
    expected = (weights[case.labels != IGNORE_INDEX].double() * case.plain(objective, 4)).sum() / 17
    assert_same(output.loss, expected, (case.hidden,))


def test_bf16_loss_and_gradients_are_close_to_fp32() -> None:
    case, objective = Case(), terms(0.5, 0.5, "swap")
    exact = torch.autograd.grad(case.cached(objective, 4).loss, (case.hidden, case.weight))
    case.hidden = case.hidden.detach().bfloat16().requires_grad_()
    rounded = torch.autograd.grad(case.cached(objective, 4).loss, (case.hidden, case.weight))
    assert [gradient.dtype for gradient in rounded] == [torch.bfloat16, torch.float32]
    for actual, wanted in zip(rounded, exact, strict=True):
        assert (actual.float() - wanted).norm() < 0.03 * wanted.norm()


def loss_of_logits(student: Tensor, targets: CachedTargets, label: int, objective: ObjectiveConfig) -> LossOutput:
    eye, labels = torch.eye(len(student), dtype=student.dtype), torch.full((len(student),), label)
    return distillation_loss(eye, Head(student.T), labels, objective, normaliser=1.0, teacher=targets)


def test_first_of_equal_maxima_is_the_one_that_is_swapped() -> None:
    """Token 1 and 2 are equally likely and kept in the order 2, 1; the dense loss swaps token 1."""
    teacher, student = torch.tensor([[1.0, 3.0, 3.0, 0.0]]), torch.tensor([[0.3, -0.2, 0.9, 0.1]], requires_grad=True)
    log_probs = teacher.log_softmax(1)[0]
    targets = CachedTargets(torch.tensor([[2, 1]]), log_probs[[2, 1]].unsqueeze(0), log_probs[:1])
    output = loss_of_logits(student, targets, 0, terms(0.0, 1.0, "swap"))
    swapped = torch.tensor([3.0, 1.0, 3.0, 0.0]).softmax(0)
    torch.testing.assert_close(torch.autograd.grad(output.loss, student)[0][0], student.softmax(1)[0] - swapped)


@pytest.mark.parametrize("objective", [terms(0.5, 0.5, name) for name in TRANSFORMS], ids=TRANSFORMS)
@pytest.mark.parametrize("label", [0, 2])
def test_rest_that_rounding_makes_empty_or_negative_stays_finite(objective: ObjectiveConfig, label: int) -> None:
    """The rest is smaller than fp32 resolves, for a teacher and a student that are certain of different tokens."""
    teacher = torch.tensor([[60.0, 59.0, -60.0, -61.0, -62.0]])
    student = torch.tensor([[0.0, 300.0, -300.0, -310.0, -320.0]], requires_grad=True)
    targets = kept(teacher, torch.tensor([label]), 2)
    targets = CachedTargets(targets.token_ids, targets.log_probs + 1e-6, targets.label_log_probs)
    loss = loss_of_logits(student, targets, label, objective).loss
    gradient = torch.autograd.grad(loss, student)[0]
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert abs(float(gradient.sum())) < 1e-5


def test_rest_that_only_the_teacher_believes_in_pulls_the_student_there() -> None:
    """The gradient in the rest is p_j * (1 - q_rest / p_rest), here with a p_rest that fp32 rounds to 0."""
    student, quarter = torch.tensor([[200.0, 0.0, 1.0, 2.0]], requires_grad=True), torch.tensor([0.25]).log()
    targets = CachedTargets(torch.tensor([[0]]), quarter.unsqueeze(0), quarter)
    loss = loss_of_logits(student, targets, 0, terms(0.0, 1.0, "none")).loss
    gradient = torch.autograd.grad(loss, student)[0][0]
    rest = student[0, 1:].detach().softmax(0)
    torch.testing.assert_close(gradient, torch.cat([torch.tensor([0.75]), -0.75 * rest]))
    assert loss > 100


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6)
rows_without_ties = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6, unique=True)
"""Teacher logits without ties: a cache and the dense loss may choose different first maxima."""


@settings(deadline=None, max_examples=100)
@given(
    student=logit_rows,
    teacher=rows_without_ties,
    label=st.integers(0, 5),
    topk=st.integers(1, 6),
    transform=st.sampled_from(TRANSFORMS),
)
def test_divergence_of_buckets_is_at_most_that_of_tokens_and_not_negative(
    student: list[float], teacher: list[float], label: int, topk: int, transform: str
) -> None:
    s, z = torch.tensor([student], dtype=torch.float64), torch.tensor([teacher], dtype=torch.float64)
    objective, labels = terms(0.0, 1.0, transform), torch.tensor([label])
    dense = Teacher(torch.eye(1, dtype=torch.float64), Head(z.T.contiguous()))
    eye = torch.eye(1, dtype=torch.float64)
    tokens = distillation_loss(eye, Head(s.T), labels, objective, normaliser=1.0, teacher=dense).loss
    assert -1e-9 <= loss_of_logits(s, kept(z, labels, topk), label, objective).loss <= tokens + 1e-9


def test_cached_targets_at_another_temperature_are_refused() -> None:
    with pytest.raises(ConfigError, match="cached teacher"):
        Case().cached(ObjectiveConfig(temperature=2.0), 4)


def test_objective_without_teacher_takes_no_notice_of_cached_targets() -> None:
    case = Case()
    assert torch.equal(
        case.cached(terms(1.0, 0.0, "none", temperature=2.0), 4).loss,
        case.dense(terms(1.0, 0.0, "none")).loss,
    )
