"""The fused loss with every transform, against full logits and autograd in float64, written from the equations."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.chunk import MEASURES
from mixcpt.distill.loss import LossOutput, Teacher, distillation_loss, token_cross_entropy
from mixcpt.distill.model import Head
from mixcpt.mixture.rows import IGNORE_INDEX
from tests.unit.distill.objectives import terms

TOKENS, HIDDEN, VOCAB = 29, 7, 23
TRANSFORMS = ("none", "swap", "margin", "threshold", "mask")
HEADS: dict[str, Callable[[Tensor], Head]] = {
    "plain": Head,
    "scaled": lambda weight: Head(weight, logit_scale=0.25),
    "capped": lambda weight: Head(weight, soft_cap=3.0),
    "both": lambda weight: Head(weight, 0.5, 2.0),
}


class Case:
    """A student, and a teacher with integer logits (hence ties) whose first choice is right in a third of the rows."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(11)
        self.hidden = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        self.weight = torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        self.teacher_logits = torch.randint(-3, 4, (TOKENS, VOCAB), generator=generator).to(dtype)
        self.labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
        self.labels[::3] = self.teacher_logits.argmax(dim=1)[::3]
        self.labels[4::9] = IGNORE_INDEX
        self.weights = torch.rand(TOKENS, generator=generator, dtype=torch.float64).to(dtype)
        self.sources = torch.randint(2, (TOKENS,), generator=generator)

    def fused(
        self, objective: ObjectiveConfig, head: Head | None = None, rows: slice = slice(None), **more: Any
    ) -> LossOutput:
        return distillation_loss(
            self.hidden[rows],
            head or Head(self.weight),
            self.labels[rows],
            objective,
            normaliser=17.0,
            teacher=teacher_of(self.teacher_logits[rows]),
            **more,
        )

    def plain(self, objective: ObjectiveConfig, head: Head | None = None) -> Tensor:
        head = head or Head(self.weight)
        logits = head.logit_scale * (self.hidden.double() @ head.weight.double().T)
        if head.soft_cap:
            logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
        return plain_loss(logits, self.teacher_logits, self.labels, objective)


def teacher_of(logits: Tensor) -> Teacher:
    """Return a teacher with exactly these logits."""
    return Teacher(torch.eye(len(logits), dtype=logits.dtype), Head(logits.T.contiguous()))


def plain_loss(student: Tensor, teacher: Tensor, labels: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Return the loss per scored token, from full logits."""
    rows = zip(student.double(), teacher.double(), labels.tolist(), strict=True)
    return torch.stack([plain_row(s, z, y, objective) for s, z, y in rows if y != IGNORE_INDEX])


def plain_row(s: Tensor, z: Tensor, y: int, objective: ObjectiveConfig) -> Tensor:
    temperature = objective.temperature
    log_q, counts = plain_target(z, y, objective)
    log_p = torch.log_softmax(s / temperature, 0)
    kl = temperature**2 * (log_q.exp() * (log_q - log_p)).sum()
    return objective.ce_weight * functional.cross_entropy(s, torch.tensor(y)) + objective.kl_weight * kl * counts


def plain_target(z: Tensor, y: int, objective: ObjectiveConfig) -> tuple[Tensor, float]:
    """Return log q, and the weight of the row's divergence (0 or 1)."""
    m, temperature = objective.margin, objective.temperature
    a = int((z == z.max()).nonzero()[0])
    q0 = torch.softmax(z / temperature, 0)
    if objective.transform == "swap":
        z = z.clone()
        z[[y, a]] = z[[a, y]]
    if objective.transform == "threshold":
        d = float(q0[a] - q0[y])
        m = min(1.0, m / (1 - float(q0[y]))) if a == y else (d + m) / (1 + d)
    log_q = torch.log_softmax(z / temperature, 0)
    if objective.transform in ("margin", "threshold"):
        log_q = torch.log((1 - m) * q0 + m * functional.one_hot(torch.tensor(y), len(z)).double())
    return log_q, float(objective.transform != "mask" or a == y)


def assert_same_gradients(
    actual: Tensor, expected: Tensor, inputs: tuple[Tensor, ...], tolerance: float = 1e-6
) -> None:
    """Assert equal losses, and equal gradients relative to their norms."""
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)
    gradients, wanted = torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert (gradient.double() - reference.double()).norm() <= tolerance * reference.double().norm()


@pytest.mark.parametrize(("transform", "temperature"), list(product(TRANSFORMS, (1.0, 2.0))))
@pytest.mark.parametrize("ce_weight", [0.0, 0.3])
def test_loss_and_gradients_equal_full_logits(transform: str, temperature: float, ce_weight: float) -> None:
    case = Case()
    objective = terms(ce_weight, 0.7, transform, temperature=temperature, margin=0.2)
    output = case.fused(objective, budget_bytes=6 * 4 * VOCAB * 4)
    assert_same_gradients(output.loss, case.plain(objective).sum() / 17, (case.hidden, case.weight))


@pytest.mark.parametrize(("head", "temperature"), list(product(HEADS, (1.0, 2.0))))
def test_scaled_and_capped_logits_are_honoured(head: str, temperature: float) -> None:
    case = Case()
    objective = terms(0.4, 0.6, "swap", temperature=temperature)
    output = case.fused(objective, HEADS[head](case.weight), budget_bytes=5 * 5 * VOCAB * 4)
    expected = case.plain(objective, HEADS[head](case.weight)).sum() / 17
    assert_same_gradients(output.loss, expected, (case.hidden, case.weight))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_equal_finite_differences(transform: str) -> None:
    case = Case(torch.float64)
    objective = terms(0.3, 0.7, transform, temperature=2.0, margin=0.2)
    teacher, labels = teacher_of(case.teacher_logits[:5, :6]), case.labels[:5].clamp(max=5)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return distillation_loss(hidden, Head(weight), labels, objective, normaliser=3.0, teacher=teacher).loss

    inputs = case.hidden[:5, :3].detach().requires_grad_(), case.weight[:6, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def test_frozen_head_gets_no_gradient_and_hidden_states_the_same() -> None:
    case, objective = Case(), terms(0.5, 0.5, "swap", temperature=2.0)
    expected = torch.autograd.grad(case.fused(objective).loss, case.hidden)[0]
    actual = torch.autograd.grad(case.fused(objective, Head(case.weight.detach())).loss, case.hidden)[0]
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_micro_batches_with_a_global_normaliser_add_up_to_the_whole(transform: str) -> None:
    case, objective = Case(torch.float64), terms(0.5, 0.5, transform, temperature=2.0)
    inputs = case.hidden, case.weight
    whole = torch.autograd.grad(case.fused(objective, token_weights=case.weights).loss, inputs)
    parts = [slice(0, 3), slice(3, 20), slice(20, TOKENS)]
    losses = [case.fused(objective, rows=rows, token_weights=case.weights[rows]).loss for rows in parts]
    for gradient, reference in zip(torch.autograd.grad(sum(losses), inputs), whole, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_weights_multiply_loss_and_gradient_and_are_constants(temperature: float) -> None:
    case, objective = Case(), terms(0.3, 0.7, "swap", temperature=temperature)
    weights = case.weights.clone().requires_grad_()
    output = case.fused(objective, token_weights=weights, budget_bytes=6 * 4 * VOCAB * 4)
    expected = (case.weights[case.labels != IGNORE_INDEX].double() * case.plain(objective)).sum() / 17
    assert_same_gradients(output.loss, expected, (case.hidden, case.weight))
    assert not torch.autograd.grad(case.fused(objective, token_weights=weights).loss, weights, allow_unused=True)[0]


def test_token_weights_change_the_loss_measured_and_nothing_else() -> None:
    case, objective = Case(torch.float64), terms(0.3, 0.7, "swap", temperature=2.0)
    own = {"source_ids": case.sources, "num_sources": 2}
    plain, weighted = case.fused(objective, **own), case.fused(objective, token_weights=case.weights, **own)
    assert torch.equal(plain.sums[:, :-1], weighted.sums[:, :-1])
    losses = case.plain(objective).detach()
    scored = case.labels != IGNORE_INDEX
    for output, weights in ((plain, torch.ones_like(losses)), (weighted, case.weights[scored])):
        by_source = [(losses * weights)[case.sources[scored] == source].sum() for source in (0, 1)]
        torch.testing.assert_close(output.sums[:, MEASURES.index("loss")], torch.stack(by_source))


def test_mask_measures_no_divergence_where_the_teacher_is_wrong() -> None:
    case = Case(torch.float64)
    masked = case.fused(terms(0.0, 1.0, "mask")).sums[0]
    right = case.labels == case.teacher_logits.argmax(dim=1)
    case.labels = torch.where(right, case.labels, IGNORE_INDEX)
    kept = case.fused(terms(0.0, 1.0, "none")).sums[0]
    torch.testing.assert_close(masked[MEASURES.index("kl")], kept[MEASURES.index("kl")])
    assert masked[MEASURES.index("correct")] == kept[0] > 0


def test_token_cross_entropy_is_that_of_torch() -> None:
    case = Case()
    head = Head(case.weight, 0.5, 2.0)
    logits = 2 * torch.tanh(0.25 * (case.hidden @ case.weight.T))
    expected = functional.cross_entropy(logits, case.labels, reduction="none", ignore_index=IGNORE_INDEX)
    actual = token_cross_entropy(case.hidden, head, case.labels, budget_bytes=4 * 2 * VOCAB * 4)
    torch.testing.assert_close(actual, expected.detach())
    assert not actual.requires_grad


# Identities of docs/algorithms.md#logit-swap-self-distillation


def loss_of_logits(student: Tensor, teacher: Tensor, labels: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Return the sum of the losses; its gradient reaches `student`."""
    eye = torch.eye(len(student), dtype=student.dtype)
    return distillation_loss(eye, Head(student.T), labels, objective, normaliser=1.0, teacher=teacher_of(teacher)).loss


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.8])
def test_convex_loss_at_temperature_one_is_cross_entropy_against_mixed_targets(alpha: float) -> None:
    """The gradient is p - b*q0 - (1-b + b*d)*onehot(y) + b*d*onehot(a), as with mixed soft targets."""
    case = Case(torch.float64)
    student = torch.randn(TOKENS, VOCAB, dtype=torch.float64, requires_grad=True)
    labels = case.labels.clamp(min=0)
    actual = torch.autograd.grad(
        loss_of_logits(
            student,
            case.teacher_logits,
            labels,
            terms(alpha, 1 - alpha, "swap"),
        ),
        student,
    )[0]
    p, q0 = student.detach().softmax(1), case.teacher_logits.softmax(1)
    top = q0.argmax(1)
    d = (q0.gather(1, top[:, None]) - q0.gather(1, labels[:, None])).squeeze(1)
    at_y, at_a = functional.one_hot(labels, VOCAB), functional.one_hot(top, VOCAB)
    b = 1 - alpha
    by_formula = p - b * q0 - ((1 - b) + b * d)[:, None] * at_y + (b * d)[:, None] * at_a
    torch.testing.assert_close(actual, by_formula)
    target = alpha * at_y + b * (q0 + d[:, None] * (at_y - at_a))
    soft = functional.cross_entropy(student, target, reduction="sum")
    torch.testing.assert_close(actual, torch.autograd.grad(soft, student)[0])


def test_margin_is_cross_entropy_and_plain_distillation_in_its_proportion() -> None:
    case = Case(torch.float64)
    actual = torch.autograd.grad(case.fused(terms(0.0, 1.0, "margin", margin=0.2)).loss, case.weight)[0]
    expected = torch.autograd.grad(case.fused(terms(0.2, 0.8, "none")).loss, case.weight)[0]
    torch.testing.assert_close(actual, expected)


def test_threshold_lets_the_true_token_lead_by_the_margin() -> None:
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.9, 0.06, 0.04]], dtype=torch.float64)
    led = [0.48 / 1.3, 0.74 / 1.3, 0.08 / 1.3]  # m = 0.5 / 1.3; the second is 0.2 above the first
    expected = torch.tensor([led, [0.8, 0.15, 0.05], [1.0, 0.0, 0.0]], dtype=torch.float64)
    student = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    objective = terms(0.0, 1.0, "threshold", margin=0.2)
    gradient = torch.autograd.grad(loss_of_logits(student, teacher.log(), torch.tensor([1, 0, 0]), objective), student)
    torch.testing.assert_close(1 / 3 - gradient[0], expected)


def test_threshold_of_a_certain_teacher_stays_finite() -> None:
    teacher, student = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    for margin in (0.0, 0.5):
        objective = terms(0.5, 0.5, "threshold", temperature=1.0, margin=margin)
        loss = loss_of_logits(student, teacher, torch.tensor([0]), objective)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6)
objectives = st.builds(
    ObjectiveConfig,
    ce_weight=st.just(0.0),
    kl_weight=st.just(1.0),
    transform=st.sampled_from(TRANSFORMS[:3]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    margin=st.floats(0.01, 0.9),
)


@settings(deadline=None, max_examples=150)
@given(student=logit_rows, teacher=logit_rows, label=st.integers(0, 5), objective=objectives)
def test_divergence_equals_its_formula_is_not_negative_and_moves_no_mass(
    student: list[float], teacher: list[float], label: int, objective: ObjectiveConfig
) -> None:
    s = torch.tensor([student], dtype=torch.float64, requires_grad=True)
    z, y = torch.tensor([teacher], dtype=torch.float64), torch.tensor([label])
    loss = loss_of_logits(s, z, y, objective)
    assert loss >= -1e-9
    torch.testing.assert_close(loss, plain_loss(s, z, y, objective).sum(), rtol=1e-6, atol=1e-9)
    assert abs(torch.autograd.grad(loss, s)[0].sum()) < 1e-9


@pytest.mark.parametrize(("transform", "label"), list(product(("none", "swap"), (0, 2))))
def test_extreme_logits_stay_finite_and_exact(transform: str, label: int) -> None:
    """Probabilities of student and teacher far below the range of fp32."""
    student = torch.tensor([[300.0, 0.0, -300.0], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-200.0, 200.0, 0.0], [-150.0, 150.0, 0.0]])
    objective, labels = terms(0.5, 0.5, transform, temperature=2.0), torch.tensor([label, label])
    loss = loss_of_logits(student, teacher, labels, objective)
    expected = plain_loss(student, teacher, labels, objective).sum()
    assert_same_gradients(loss, expected, (student,))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_bf16_loss_and_gradients_are_close_to_fp32(transform: str) -> None:
    case, objective = Case(), terms(0.5, 0.5, transform, temperature=1.0)
    case.hidden = case.hidden.detach().bfloat16().float().requires_grad_()
    case.teacher_logits = case.teacher_logits.bfloat16()
    exact = torch.autograd.grad(case.fused(objective, token_weights=case.weights).loss, (case.hidden, case.weight))
    case.hidden = case.hidden.detach().bfloat16().requires_grad_()
    rounded = torch.autograd.grad(case.fused(objective, token_weights=case.weights).loss, (case.hidden, case.weight))
    assert [gradient.dtype for gradient in rounded] == [torch.bfloat16, torch.float32]
    for actual, wanted in zip(rounded, exact, strict=True):
        assert (actual.float() - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"margin": 1.0}, {"margin": -0.1}])
def test_objective_outside_of_its_formula_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ObjectiveConfig(**wrong)  # type: ignore[arg-type]
