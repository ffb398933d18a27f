"""Every transform with every divergence, against full logits and autograd in float64, written down from METHODS."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from mixcpt.distill.chunk import MEASURES, forward_kl_
from mixcpt.distill.head import Head
from mixcpt.distill.loss import LossOutput, Teacher, distillation_loss, token_cross_entropy
from mixcpt.distill.objective import Objective
from mixcpt.mixture.rows import IGNORE_INDEX

TOKENS, HIDDEN, VOCAB = 29, 7, 23
TRANSFORMS = ("none", "swap", "margin", "threshold", "mask")
DIVERGENCES = ("forward", "reverse", "jsd")
HEADS: dict[str, Callable[[Tensor], Head]] = {
    "plain": Head,
    "scaled": lambda weight: Head(weight, logit_scale=0.25),
    "capped": lambda weight: Head(weight, soft_cap=3.0),
    "both": lambda weight: Head(weight, 0.5, 2.0),
}


class Case:
    """A student, and a teacher whose logits are whole numbers (hence ties), right in a third of the rows."""

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
        self, objective: Objective, head: Head | None = None, rows: slice = slice(None), **more: Any
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

    def plain(self, objective: Objective, head: Head | None = None) -> Tensor:
        head = head or Head(self.weight)
        logits = head.logit_scale * (self.hidden.double() @ head.weight.double().T)
        if head.soft_cap:
            logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
        return plain_loss(logits, self.teacher_logits, self.labels, objective)


def teacher_of(logits: Tensor) -> Teacher:
    """Returns a teacher whose logits are exactly these."""
    return Teacher(torch.eye(len(logits), dtype=logits.dtype), Head(logits.T.contiguous()))


def plain_loss(student: Tensor, teacher: Tensor, labels: Tensor, objective: Objective) -> Tensor:
    """Returns the loss of each scored token, from full logits."""
    rows = zip(student.double(), teacher.double(), labels.tolist(), strict=True)
    return torch.stack([plain_row(s, z, y, objective) for s, z, y in rows if y != IGNORE_INDEX])


def plain_row(s: Tensor, z: Tensor, y: int, objective: Objective) -> Tensor:
    temperature = objective.temperature
    log_q, counts = plain_target(z, y, objective)
    log_p = torch.log_softmax(s / temperature, 0)
    kl = temperature**2 * plain_divergence(log_q, log_p, objective)
    return objective.ce_weight * functional.cross_entropy(s, torch.tensor(y)) + objective.kl_weight * kl * counts


def plain_target(z: Tensor, y: int, objective: Objective) -> tuple[Tensor, float]:
    """Returns log q, and whether the row's divergence counts."""
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


def plain_divergence(log_q: Tensor, log_p: Tensor, objective: Objective) -> Tensor:
    def kl(left: Tensor, right: Tensor) -> Tensor:
        return (left.exp() * (left - right)).sum()

    if objective.divergence == "forward":
        return kl(log_q, log_p)
    if objective.divergence == "reverse":
        return kl(log_p, log_q)
    beta = objective.beta
    mixture = torch.log(beta * log_q.exp() + (1 - beta) * log_p.exp())
    return beta * kl(log_q, mixture) + (1 - beta) * kl(log_p, mixture)


def assert_same_gradients(
    actual: Tensor, expected: Tensor, inputs: tuple[Tensor, ...], tolerance: float = 1e-6
) -> None:
    """Compares the losses, and each gradient relative to its own size."""
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)
    found, wanted = torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other.double()).norm() <= tolerance * other.double().norm()


@pytest.mark.parametrize(("transform", "divergence", "temperature"), list(product(TRANSFORMS, DIVERGENCES, (1.0, 2.0))))
@pytest.mark.parametrize("ce_weight", [0.0, 0.3])
def test_loss_and_gradients_equal_full_logits(
    transform: str, divergence: str, temperature: float, ce_weight: float
) -> None:
    case = Case()
    objective = Objective(ce_weight, 0.7, transform, temperature, divergence, beta=0.3, margin=0.2)
    output = case.fused(objective, budget_bytes=6 * 4 * VOCAB * 4)
    assert_same_gradients(output.loss, case.plain(objective).sum() / 17, (case.hidden, case.weight))


@pytest.mark.parametrize(("head", "divergence", "temperature"), list(product(HEADS, DIVERGENCES, (1.0, 2.0))))
def test_scaled_and_capped_logits_are_honoured(head: str, divergence: str, temperature: float) -> None:
    case = Case()
    objective = Objective(0.4, 0.6, "swap", temperature, divergence)
    output = case.fused(objective, HEADS[head](case.weight), budget_bytes=5 * 5 * VOCAB * 4)
    expected = case.plain(objective, HEADS[head](case.weight)).sum() / 17
    assert_same_gradients(output.loss, expected, (case.hidden, case.weight))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_equal_finite_differences(transform: str, divergence: str) -> None:
    case = Case(torch.float64)
    objective = Objective(0.3, 0.7, transform, 2.0, divergence, margin=0.2)
    teacher, labels = teacher_of(case.teacher_logits[:5, :6]), case.labels[:5].clamp(max=5)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return distillation_loss(hidden, Head(weight), labels, objective, normaliser=3.0, teacher=teacher).loss

    inputs = case.hidden[:5, :3].detach().requires_grad_(), case.weight[:6, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_frozen_head_gets_no_gradient_and_hidden_states_the_same(divergence: str) -> None:
    case, objective = Case(), Objective(0.5, 0.5, "swap", 2.0, divergence)
    expected = torch.autograd.grad(case.fused(objective).loss, case.hidden)[0]
    found = torch.autograd.grad(case.fused(objective, Head(case.weight.detach())).loss, case.hidden)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("transform", "divergence"), list(product(TRANSFORMS, DIVERGENCES)))
def test_micro_batches_with_a_global_normaliser_add_up_to_the_whole(transform: str, divergence: str) -> None:
    case, objective = Case(torch.float64), Objective(0.5, 0.5, transform, 2.0, divergence)
    inputs = case.hidden, case.weight
    whole = torch.autograd.grad(case.fused(objective, token_weights=case.weights).loss, inputs)
    parts = [slice(0, 3), slice(3, 20), slice(20, TOKENS)]
    losses = [case.fused(objective, rows=rows, token_weights=case.weights[rows]).loss for rows in parts]
    for one, other in zip(torch.autograd.grad(sum(losses), inputs), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_weights_multiply_loss_and_gradient_and_are_constants(divergence: str, temperature: float) -> None:
    case, objective = Case(), Objective(0.3, 0.7, "swap", temperature, divergence)
    weights = case.weights.clone().requires_grad_()
    output = case.fused(objective, token_weights=weights, budget_bytes=6 * 4 * VOCAB * 4)
    expected = (case.weights[case.labels != IGNORE_INDEX].double() * case.plain(objective)).sum() / 17
    assert_same_gradients(output.loss, expected, (case.hidden, case.weight))
    assert not torch.autograd.grad(case.fused(objective, token_weights=weights).loss, weights, allow_unused=True)[0]


def test_token_weights_change_the_loss_measured_and_nothing_else() -> None:
    case, objective = Case(torch.float64), Objective(0.3, 0.7, "swap", 2.0)
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
    masked = case.fused(Objective(0.0, 1.0, "mask")).sums[0]
    right = case.labels == case.teacher_logits.argmax(dim=1)
    case.labels = torch.where(right, case.labels, IGNORE_INDEX)
    kept = case.fused(Objective(0.0, 1.0, "none")).sums[0]
    torch.testing.assert_close(masked[MEASURES.index("kl")], kept[MEASURES.index("kl")])
    assert masked[MEASURES.index("correct")] == kept[0] > 0


def test_token_cross_entropy_is_that_of_torch() -> None:
    case = Case()
    head = Head(case.weight, 0.5, 2.0)
    logits = 2 * torch.tanh(0.25 * (case.hidden @ case.weight.T))
    expected = functional.cross_entropy(logits, case.labels, reduction="none", ignore_index=IGNORE_INDEX)
    found = token_cross_entropy(case.hidden, head, case.labels, budget_bytes=4 * 2 * VOCAB * 4)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad


# Identities of METHODS 1.2


def loss_of_logits(student: Tensor, teacher: Tensor, labels: Tensor, objective: Objective) -> Tensor:
    """Returns the sum of the losses; its gradient reaches `student`."""
    eye = torch.eye(len(student), dtype=student.dtype)
    return distillation_loss(eye, Head(student.T), labels, objective, normaliser=1.0, teacher=teacher_of(teacher)).loss


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.8])
def test_convex_loss_at_temperature_one_is_cross_entropy_against_mixed_targets(alpha: float) -> None:
    """The gradient is p - b*q0 - (1-b + b*d)*onehot(y) + b*d*onehot(a), and so is that of the mixed soft targets."""
    case = Case(torch.float64)
    student = torch.randn(TOKENS, VOCAB, dtype=torch.float64, requires_grad=True)
    labels = case.labels.clamp(min=0)
    found = torch.autograd.grad(
        loss_of_logits(student, case.teacher_logits, labels, Objective(alpha, 1 - alpha, "swap")), student
    )[0]
    p, q0 = student.detach().softmax(1), case.teacher_logits.softmax(1)
    top = q0.argmax(1)
    d = (q0.gather(1, top[:, None]) - q0.gather(1, labels[:, None])).squeeze(1)
    at_y, at_a = functional.one_hot(labels, VOCAB), functional.one_hot(top, VOCAB)
    b = 1 - alpha
    by_formula = p - b * q0 - ((1 - b) + b * d)[:, None] * at_y + (b * d)[:, None] * at_a
    torch.testing.assert_close(found, by_formula)
    target = alpha * at_y + b * (q0 + d[:, None] * (at_y - at_a))
    soft = functional.cross_entropy(student, target, reduction="sum")
    torch.testing.assert_close(found, torch.autograd.grad(soft, student)[0])


def test_margin_is_cross_entropy_and_plain_distillation_in_its_proportion() -> None:
    case = Case(torch.float64)
    found = torch.autograd.grad(case.fused(Objective(0.0, 1.0, "margin", margin=0.2)).loss, case.weight)[0]
    expected = torch.autograd.grad(case.fused(Objective(0.2, 0.8, "none")).loss, case.weight)[0]
    torch.testing.assert_close(found, expected)


def test_threshold_lets_the_true_token_lead_by_the_margin() -> None:
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.9, 0.06, 0.04]], dtype=torch.float64)
    led = [0.48 / 1.3, 0.74 / 1.3, 0.08 / 1.3]  # m = 0.5 / 1.3; the second is 0.2 above the first
    expected = torch.tensor([led, [0.8, 0.15, 0.05], [1.0, 0.0, 0.0]], dtype=torch.float64)
    student = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    objective = Objective(0.0, 1.0, "threshold", margin=0.2)
    gradient = torch.autograd.grad(loss_of_logits(student, teacher.log(), torch.tensor([1, 0, 0]), objective), student)
    torch.testing.assert_close(1 / 3 - gradient[0], expected)


def test_threshold_of_a_certain_teacher_stays_finite() -> None:
    teacher, student = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    for divergence, margin in product(DIVERGENCES, (0.0, 0.5)):
        objective = Objective(0.5, 0.5, "threshold", 1.0, divergence, margin=margin)
        loss = loss_of_logits(student, teacher, torch.tensor([0]), objective)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_reverse_is_forward_with_the_roles_exchanged(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(9, VOCAB, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.zeros(9, dtype=torch.long)
    reverse = loss_of_logits(student, teacher, labels, Objective(0.0, 1.0, "none", temperature, "reverse"))
    forward = loss_of_logits(teacher, student, labels, Objective(0.0, 1.0, "none", temperature))
    torch.testing.assert_close(reverse, forward)


def test_jsd_divided_by_its_weight_becomes_forward_and_reverse_at_its_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(9, VOCAB, generator=generator, dtype=torch.float64) for _ in range(2))
    labels, near = torch.arange(9), 1e-6
    for beta, end in ((near, "forward"), (1 - near, "reverse")):
        jsd = loss_of_logits(student, teacher, labels, Objective(0.0, 1.0, "swap", 1.0, "jsd", beta=beta)) / near
        expected = loss_of_logits(student, teacher, labels, Objective(0.0, 1.0, "swap", 1.0, end))
        torch.testing.assert_close(jsd, expected, rtol=1e-4, atol=0)


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6)
objectives = st.builds(
    Objective,
    ce_weight=st.just(0.0),
    kl_weight=st.just(1.0),
    transform=st.sampled_from(TRANSFORMS[:3]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    divergence=st.sampled_from(DIVERGENCES),
    beta=st.floats(0.05, 0.95),
    margin=st.floats(0.01, 0.9),
)


@settings(deadline=None, max_examples=150)
@given(student=logit_rows, teacher=logit_rows, label=st.integers(0, 5), objective=objectives)
def test_any_divergence_equals_its_formula_is_not_negative_and_moves_no_mass(
    student: list[float], teacher: list[float], label: int, objective: Objective
) -> None:
    s = torch.tensor([student], dtype=torch.float64, requires_grad=True)
    z, y = torch.tensor([teacher], dtype=torch.float64), torch.tensor([label])
    loss = loss_of_logits(s, z, y, objective)
    assert loss >= -1e-9
    torch.testing.assert_close(loss, plain_loss(s, z, y, objective).sum(), rtol=1e-6, atol=1e-9)
    assert abs(torch.autograd.grad(loss, s)[0].sum()) < 1e-9


@settings(deadline=None, max_examples=50)
@given(student=logit_rows, teacher=logit_rows, beta=st.floats(0.05, 0.95))
def test_jsd_is_bounded_by_the_entropy_of_its_weights_and_symmetric(
    student: list[float], teacher: list[float], beta: float
) -> None:
    s, z, y = torch.tensor([student]).double(), torch.tensor([teacher]).double(), torch.tensor([0])
    jsd = loss_of_logits(s, z, y, Objective(0.0, 1.0, "none", 1.0, "jsd", beta=beta))
    other = loss_of_logits(z, s, y, Objective(0.0, 1.0, "none", 1.0, "jsd", beta=1 - beta))
    assert jsd <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-9
    torch.testing.assert_close(jsd, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("transform", "divergence", "label"), list(product(("none", "swap"), DIVERGENCES, (0, 2))))
def test_extreme_logits_stay_finite_and_exact(transform: str, divergence: str, label: int) -> None:
    """Probabilities far below what fp32 can hold, on either side."""
    student = torch.tensor([[300.0, 0.0, -300.0], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-200.0, 200.0, 0.0], [-150.0, 150.0, 0.0]])
    objective, labels = Objective(0.5, 0.5, transform, 2.0, divergence), torch.tensor([label, label])
    loss = loss_of_logits(student, teacher, labels, objective)
    expected = plain_loss(student, teacher, labels, objective).sum()
    if divergence == "jsd":  # the plain mixture takes logarithms of sums, exact only where they do not vanish
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()
    else:
        assert_same_gradients(loss, expected, (student,))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_bf16_loss_and_gradients_are_close_to_fp32(transform: str, divergence: str) -> None:
    case, objective = Case(), Objective(0.5, 0.5, transform, 1.0, divergence)
    case.hidden = case.hidden.detach().bfloat16().float().requires_grad_()
    case.teacher_logits = case.teacher_logits.bfloat16()
    exact = torch.autograd.grad(case.fused(objective, token_weights=case.weights).loss, (case.hidden, case.weight))
    case.hidden = case.hidden.detach().bfloat16().requires_grad_()
    rounded = torch.autograd.grad(case.fused(objective, token_weights=case.weights).loss, (case.hidden, case.weight))
    assert [gradient.dtype for gradient in rounded] == [torch.bfloat16, torch.float32]
    for actual, wanted in zip(rounded, exact, strict=True):
        assert (actual.float() - wanted).norm() < 0.03 * wanted.norm()


# What it costs


class VocabPasses(TorchDispatchMode):
    """Counts the operations on whole matrices of logits, and adds up the bytes of those that are created."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape, self.passes, self.storages = shape, Counter[str](), dict[int, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args, result, *(kwargs or {}).values()) if isinstance(t, Tensor)]
        name = func.overloadpacket.__name__
        if any(tuple(t.shape) == self.shape for t in tensors) and not name.startswith(("gather", "scatter")):
            self.passes[name] += 1
        for tensor in tensors:
            if tensor.dim() and tensor.shape[-1] == self.shape[1]:
                self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return result


def passes_of(objective: Objective) -> int:
    rows, vocab = 4, 1000
    buffers = [torch.randn(rows, vocab) for _ in range(3)]
    with VocabPasses((rows, vocab)) as mode:
        forward_kl_(*buffers, torch.arange(rows), objective)
    return mode.passes.total()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_swap_costs_no_pass_over_the_vocabulary_more_than_plain_distillation(temperature: float) -> None:
    plain = passes_of(Objective(0.5, 0.5, "none", temperature))
    assert plain == {1.0: 9, 2.0: 16}[temperature]
    more = {name: passes_of(Objective(0.5, 0.5, name, temperature)) - plain for name in TRANSFORMS}
    assert more == {"none": 0, "swap": 0, "margin": 1, "threshold": 1, "mask": 2}


@pytest.mark.parametrize(("divergence", "temperature"), list(product(DIVERGENCES, (1.0, 2.0))))
def test_buffers_with_a_vocabulary_axis_stay_within_the_budget(divergence: str, temperature: float) -> None:
    vocab, budget = 509, 40_000
    hidden, weight = torch.randn(300, 4, requires_grad=True), torch.randn(vocab, 4, requires_grad=True)
    labels, teacher = torch.randint(vocab, (300,)), Teacher(torch.randn(300, 4), Head(torch.randn(vocab, 4)))
    with VocabPasses((0, vocab)) as mode:
        objective = Objective(0.5, 0.5, "mask", temperature, divergence)
        distillation_loss(
            hidden, Head(weight), labels, objective, normaliser=300.0, teacher=teacher, budget_bytes=budget
        ).loss.backward()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (weight, teacher.head.weight)}
    assert 0 < sum(size for storage, size in mode.storages.items() if storage not in weights) <= budget


@pytest.mark.parametrize("transform", ["none", "swap"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_forward_kl_keeps_its_bits(transform: str, temperature: float) -> None:
    """The operations of the first release in their order: a run resumed after an update ends with the same weights."""
    case, objective = Case(), Objective(0.4, 0.6, transform, temperature)
    labels = case.labels.clamp(min=0)
    student = (case.hidden @ case.weight.T).detach()
    buffers = student.clone(), case.teacher_logits.clone(), torch.empty_like(student)
    result = forward_kl_(*buffers, labels, objective)
    ce, kl, gradient, factor = first_release(student, case.teacher_logits / 1, labels, objective)
    assert torch.equal(result.ce, ce) and torch.equal(result.kl, kl)
    assert torch.equal(buffers[0], gradient) and result.factor == factor


def first_release(
    student: Tensor, teacher: Tensor, labels: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Returns CE, T^2 KL, the gradient divided by the factor, and the factor."""
    temperature, index = objective.temperature, labels.unsqueeze(1)
    top = teacher.argmax(1, keepdim=True)
    at_label, at_top = student.gather(1, index).squeeze(1), student.gather(1, top).squeeze(1)
    teacher = teacher / temperature
    q = teacher.softmax(1)
    q_label, q_top = q.gather(1, index).squeeze(1), q.gather(1, top).squeeze(1)
    shift = q_top - q_label if objective.transform == "swap" else torch.zeros_like(q_top)
    difference = teacher.sub(student, alpha=1 / temperature).mul(q).sum(1)
    log_normaliser = teacher.gather(1, top).squeeze(1) - q_top.log()

    def log_sum_exp(logits: Tensor) -> Tensor:
        return logits.amax(1) - logits.softmax(1).amax(1).log()

    if temperature == 1:
        factor = objective.ce_weight + objective.kl_weight
        gradient = student.softmax(1).sub(q, alpha=objective.kl_weight / factor)
    else:
        factor = objective.kl_weight * temperature
        gradient = (student / temperature).softmax(1).sub(q).add(student.softmax(1), alpha=objective.ce_weight / factor)
    x_log_x = lambda x: torch.xlogy(x, x)  # noqa: E731
    is_top = (top == index).squeeze(1)
    moved_label, moved_top = torch.where(is_top, 0.0, shift), torch.where(is_top, 0.0, -shift)
    entropy = x_log_x(q_label + moved_label) - x_log_x(q_label) + x_log_x(q_top + moved_top) - x_log_x(q_top)
    kl = difference - log_normaliser + entropy + log_sum_exp(student / temperature)
    kl = kl - shift * (at_label / temperature) - -shift * (at_top / temperature)
    pull = objective.kl_weight * temperature
    gradient.scatter_add_(1, index, -((objective.ce_weight + pull * shift) / factor).unsqueeze(1))
    gradient.scatter_add_(1, top, -(pull * -shift / factor).unsqueeze(1))
    return log_sum_exp(student) - at_label, temperature**2 * kl, gradient, factor


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"beta": 0.0}, {"beta": 1.0}, {"margin": 1.0}, {"margin": -0.1}]
)
def test_objective_outside_of_its_formula_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(Objective(0.5, 0.5, "swap"), **wrong)
