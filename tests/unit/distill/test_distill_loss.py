"""The fused loss against the plain formula in float64: values, gradients, identities, memory."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixcpt.config import CptMethod, CptReplayMethod, KlMethod, LssdMethod, MaskMethod, Method, ObjectiveConfig
from mixcpt.distill.loss import LossOutput, Teacher, distillation_loss
from mixcpt.distill.model import Head
from mixcpt.mixture.rows import IGNORE_INDEX
from tests.unit.distill.objectives import terms


def objective_for(method: Method) -> ObjectiveConfig:
    """Return the objective of a method with one stream."""
    (stream,) = method.streams()
    return stream


TOKENS, HIDDEN, VOCAB = 23, 8, 31
METHODS = {
    "cpt": lambda temperature: CptMethod(),
    "kl": lambda temperature: KlMethod(kl_weight=0.3, temperature=temperature),
    "lssd": lambda temperature: LssdMethod(alpha=0.4, temperature=temperature),
    "mask": lambda temperature: MaskMethod(temperature=temperature),
    "lssd_without_ce": lambda temperature: LssdMethod(alpha=0.0, temperature=temperature),
}


class Case:
    """A student, a teacher and labels, seven of them masked."""

    def __init__(self, dtype: torch.dtype = torch.float32, num_masked: int = 7) -> None:
        generator = torch.Generator().manual_seed(5)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.hidden = normal(TOKENS, HIDDEN).requires_grad_()
        self.weight = normal(VOCAB, HIDDEN).requires_grad_()
        self.teacher_hidden, self.teacher_weight = normal(TOKENS, 5), normal(VOCAB, 5)
        self.labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
        self.labels[torch.randperm(TOKENS, generator=generator)[:num_masked]] = IGNORE_INDEX
        self.sources = torch.randint(3, (TOKENS,), generator=generator)

    def fused(self, objective: ObjectiveConfig, head: Head | None = None, **options: Any) -> LossOutput:
        options = {"normaliser": 11.0, "source_ids": self.sources, "num_sources": 3, **options}
        teacher = Teacher(self.teacher_hidden, Head(self.teacher_weight))
        return distillation_loss(
            self.hidden, head or Head(self.weight), self.labels, objective, teacher=teacher, **options
        )

    def plain(self, objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
        student = self.hidden.double() @ self.weight.double().T
        teacher = self.teacher_hidden.double() @ self.teacher_weight.double().T
        return plain_rows(student, teacher, self.labels, objective)


def plain_rows(student: Tensor, teacher: Tensor, labels: Tensor, objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Return CE and T^2 KL per scored row from full logits; the swap exchanges two logits."""
    ce, kl = [], []
    for s, z, y in zip(student.double(), teacher.double(), labels.tolist(), strict=True):
        if y == IGNORE_INDEX:
            continue
        z = z.clone()
        if objective.transform == "swap":
            first = int((z == z.max()).nonzero()[0])
            z[[y, first]] = z[[first, y]]
        log_q = torch.log_softmax(z / objective.temperature, 0)
        log_p = torch.log_softmax(s / objective.temperature, 0)
        ce.append(-torch.log_softmax(s, 0)[y])
        kl.append(objective.temperature**2 * (log_q.exp() * (log_q - log_p)).sum())
    return torch.stack(ce), torch.stack(kl)


def weighted(objective: ObjectiveConfig, ce: Tensor, kl: Tensor) -> Tensor:
    return objective.ce_weight * ce.sum() + objective.kl_weight * kl.sum()


def one_hot_rows(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden states and a head weight whose product is exactly `logits`."""
    return torch.eye(len(logits), dtype=logits.dtype), logits.T.contiguous()


def loss_of_logits(
    student: Tensor, teacher: Tensor, labels: Tensor, objective: ObjectiveConfig, **options: Any
) -> LossOutput:
    hidden, weight = one_hot_rows(student)
    teacher_hidden, teacher_weight = one_hot_rows(teacher)
    options = {"normaliser": 1.0, **options}
    return distillation_loss(
        hidden, Head(weight), labels, objective, teacher=Teacher(teacher_hidden, Head(teacher_weight)), **options
    )


@pytest.mark.parametrize(("method", "temperature"), list(product(("cpt", "kl", "lssd", "lssd_without_ce"), (1.0, 2.0))))
@pytest.mark.parametrize("num_masked", [0, 7])
@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
def test_loss_and_gradients_of_each_method_equal_the_plain_formula(
    method: str, temperature: float, num_masked: int, chunk_rows: int
) -> None:
    case = Case(num_masked=num_masked)
    objective = objective_for(METHODS[method](temperature))
    expected = weighted(objective, *case.plain(objective)) / 11
    gradients = torch.autograd.grad(expected, (case.hidden, case.weight))
    output = case.fused(objective, budget_bytes=chunk_rows * 3 * VOCAB * 4)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=1e-6)
    for actual, wanted in zip(torch.autograd.grad(output.loss, (case.hidden, case.weight)), gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "temperature"), [("cpt", 1.0), ("kl", 2.0), ("lssd", 1.0), ("lssd", 2.0)])
def test_gradients_equal_finite_differences(method: str, temperature: float) -> None:
    objective = objective_for(METHODS[method](temperature))
    case = Case(torch.float64)
    teacher = Teacher(case.teacher_hidden[:5], Head(case.teacher_weight[:6]))
    labels = torch.tensor([0, 3, IGNORE_INDEX, 5, 3])

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return distillation_loss(hidden, Head(weight), labels, objective, normaliser=3.0, teacher=teacher).loss

    inputs = case.hidden[:5, :3].detach().requires_grad_(), case.weight[:6, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def test_gradient_of_a_tied_weight_adds_up_both_uses() -> None:
    case, objective = Case(), objective_for(LssdMethod(temperature=2.0))
    ids = torch.arange(TOKENS) % VOCAB

    def gradient(loss_of: Callable[[], Tensor]) -> Tensor:
        case.hidden = torch.tanh(case.weight[ids])
        return torch.autograd.grad(loss_of(), case.weight)[0]

    expected = gradient(lambda: weighted(objective, *case.plain(objective)) / 11)
    torch.testing.assert_close(gradient(lambda: case.fused(objective).loss), expected, rtol=1e-5, atol=1e-6)


def test_frozen_head_gets_no_gradient_and_hidden_states_the_same() -> None:
    case, objective = Case(), objective_for(LssdMethod())
    expected = torch.autograd.grad(case.fused(objective).loss, case.hidden)[0]
    output = case.fused(objective, Head(case.weight.detach()))
    output.loss.backward()
    assert case.weight.grad is None
    torch.testing.assert_close(case.hidden.grad, expected)


def test_gradient_is_scaled_by_what_comes_from_above() -> None:
    case, objective = Case(), objective_for(LssdMethod(temperature=2.0))
    once = torch.autograd.grad(case.fused(objective).loss, (case.hidden, case.weight))
    thrice = torch.autograd.grad(3 * case.fused(objective).loss, (case.hidden, case.weight))
    for gradient, tripled in zip(once, thrice, strict=True):
        torch.testing.assert_close(tripled, 3 * gradient)


@pytest.mark.parametrize(("logit_scale", "soft_cap"), [(0.25, 0.0), (1.0, 3.0), (0.5, 2.0)])
@pytest.mark.parametrize("method", ["cpt", "lssd"])
def test_loss_and_gradients_honour_logit_scale_and_soft_cap(method: str, logit_scale: float, soft_cap: float) -> None:
    case, objective = Case(), objective_for(METHODS[method](2.0))
    student = logit_scale * (case.hidden.double() @ case.weight.double().T)
    if soft_cap:
        student = soft_cap * torch.tanh(student / soft_cap)
    teacher = case.teacher_hidden.double() @ case.teacher_weight.double().T
    expected = weighted(objective, *plain_rows(student, teacher, case.labels, objective)) / 11
    gradients = torch.autograd.grad(expected, (case.hidden, case.weight))
    output = case.fused(objective, Head(case.weight, logit_scale, soft_cap), budget_bytes=5 * 4 * VOCAB * 4)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=1e-6)
    for actual, wanted in zip(torch.autograd.grad(output.loss, (case.hidden, case.weight)), gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


def test_objective_of_a_method_has_the_weights_of_its_formula() -> None:
    def terms(method: Method) -> tuple[float, float, str, float]:
        objective = objective_for(method)
        return objective.ce_weight, objective.kl_weight, objective.transform, objective.temperature

    assert terms(CptMethod()) == terms(CptReplayMethod()) == (1.0, 0.0, "none", 1.0)
    assert terms(KlMethod(kl_weight=0.2, temperature=3.0)) == (1.0, 0.2, "none", 3.0)
    assert terms(LssdMethod(alpha=0.25, temperature=2.0)) == (0.25, 0.75, "swap", 2.0)
    assert not objective_for(LssdMethod(alpha=1.0)).needs_teacher


def test_lssd_with_alpha_one_equals_torch_cross_entropy() -> None:
    case = Case()
    logits = case.hidden @ case.weight.T
    expected = functional.cross_entropy(logits, case.labels, ignore_index=IGNORE_INDEX, reduction="sum") / 11
    torch.testing.assert_close(case.fused(objective_for(LssdMethod(alpha=1.0))).loss, expected)


def test_lssd_equals_plain_distillation_where_the_teacher_is_right_everywhere() -> None:
    case = Case()
    case.labels = (case.teacher_hidden @ case.teacher_weight.T).argmax(dim=1)
    swapped, plain = terms(0.5, 0.5, "swap", temperature=2.0), terms(0.5, 0.5, "none", temperature=2.0)
    assert torch.equal(case.fused(swapped).loss, case.fused(plain).loss)


def test_swap_leaves_normaliser_and_entropy_of_the_teacher_unchanged() -> None:
    """A student whose KL to the swapped teacher is 0 has exactly the teacher's logits with two exchanged."""
    teacher = torch.tensor([[2.0, -1.0, 0.5, 1.0]])
    swapped = torch.tensor([[-1.0, 2.0, 0.5, 1.0]])
    sums = loss_of_logits(swapped, teacher, torch.tensor([1]), terms(0.0, 1.0, "swap")).sums
    assert abs(float(sums[0, 2])) < 1e-6
    assert torch.logsumexp(teacher, 1) == torch.logsumexp(swapped, 1)


def test_student_that_equals_its_teacher_measures_no_divergence_at_all() -> None:
    logits = 30 * torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    output = loss_of_logits(
        logits,
        logits,
        torch.zeros(50, dtype=torch.long),
        terms(0.0, 1.0, "none"),
    )
    assert output.loss == 0


def test_first_of_equal_maxima_is_the_one_that_is_swapped() -> None:
    teacher, student = torch.tensor([[1.0, 3.0, 3.0, 0.0]]), torch.tensor([[0.3, -0.2, 0.9, 0.1]])
    objective = terms(0.0, 1.0, "swap")
    _, expected = plain_rows(
        student,
        torch.tensor([[3.0, 1.0, 3.0, 0.0]]),
        torch.tensor([0]),
        objective.model_copy(update={"transform": "none"}),
    )
    output = loss_of_logits(student, teacher, torch.tensor([0]), objective)
    torch.testing.assert_close(output.loss.double(), expected.sum(), rtol=1e-6, atol=1e-6)
    assert output.sums[0, 3] == 0
    assert loss_of_logits(student, teacher, torch.tensor([2]), objective).sums[0, 4] == 0  # d = 0 for the other maximum


def test_all_masked_tokens_give_zero_loss_and_zero_gradients() -> None:
    case = Case(num_masked=TOKENS)
    output = case.fused(objective_for(LssdMethod()), normaliser=0.0)
    output.loss.backward()
    assert output.loss == 0
    assert not output.sums.any()
    assert case.hidden.grad is not None and not case.hidden.grad.any()
    assert case.weight.grad is not None and not case.weight.grad.any()


def test_extreme_logits_stay_finite_and_exact() -> None:
    student, teacher = torch.tensor([[300.0, 0.0, -300.0]]), torch.tensor([[-200.0, 200.0, 0.0]])
    objective, labels = terms(0.5, 0.5, "swap", temperature=2.0), torch.tensor([2])
    expected = weighted(objective, *plain_rows(student, teacher, labels, objective))
    torch.testing.assert_close(loss_of_logits(student, teacher, labels, objective).loss.double(), expected)


def test_sums_per_source_equal_those_counted_by_hand() -> None:
    case, objective = Case(), objective_for(LssdMethod(temperature=2.0))
    ce, kl = case.plain(objective)
    scored = case.labels != IGNORE_INDEX
    q = torch.softmax(case.teacher_hidden[scored] @ case.teacher_weight.T / 2, 1)
    labels = case.labels[scored]
    gap = q.max(1).values - q[torch.arange(len(labels)), labels]
    rows = torch.stack([torch.ones_like(ce), ce, kl, (q.argmax(1) == labels).double(), gap.double()], 1)
    expected = torch.stack([rows[case.sources[scored] == source].sum(0) for source in range(3)])
    torch.testing.assert_close(case.fused(objective).sums[:, :5], expected, rtol=1e-5, atol=1e-5)


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6)


@settings(deadline=None, max_examples=50)
@given(student=logit_rows, teacher=logit_rows, label=st.integers(0, 5), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_divergence_is_never_negative(
    student: list[float], teacher: list[float], label: int, temperature: float
) -> None:
    rows = (torch.tensor([values], dtype=torch.float64) for values in (student, teacher))
    output = loss_of_logits(
        *rows,
        torch.tensor([label]),
        terms(0.0, 1.0, "swap", temperature=temperature),
    )
    assert output.loss >= -1e-12


def test_bf16_loss_and_gradients_are_close_to_fp32() -> None:
    case, objective = Case(), objective_for(LssdMethod())
    exact = torch.autograd.grad(case.fused(objective).loss, (case.hidden, case.weight))
    master = case.weight
    case.hidden, case.teacher_hidden = case.hidden.detach().bfloat16().requires_grad_(), case.teacher_hidden.bfloat16()
    rounded = torch.autograd.grad(case.fused(objective).loss, (case.hidden, master))
    assert rounded[0].dtype == torch.bfloat16
    assert rounded[1].dtype == torch.float32
    for actual, wanted in zip(rounded, exact, strict=True):
        assert (actual.float() - wanted).norm() < 0.03 * wanted.norm()


class VocabBuffers(TorchDispatchMode):
    """Adds up the bytes of every storage with a vocabulary axis that an operation creates."""

    def __init__(self, vocab: int, known: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.vocab = vocab
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.shape[-1] == self.vocab:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.bytes[storage.data_ptr()] = max(storage.nbytes(), self.bytes.get(storage.data_ptr(), 0))
        return result


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("method", ["cpt", "lssd", "mask"])
def test_buffers_with_a_vocabulary_axis_stay_within_the_budget(method: str, temperature: float) -> None:
    tokens, hidden_size, vocab = 300, 4, 509
    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight, teacher_weight = torch.randn(vocab, hidden_size, requires_grad=True), torch.randn(vocab, hidden_size)
    labels = torch.randint(vocab, (tokens,))
    budget = 40_000  # full logits of student and teacher would take 1.2 MB
    with VocabBuffers(vocab, (weight, teacher_weight)) as buffers:
        distillation_loss(
            hidden,
            Head(weight),
            labels,
            objective_for(METHODS[method](temperature)),
            normaliser=float(tokens),
            teacher=Teacher(torch.randn(tokens, hidden_size), Head(teacher_weight)),
            budget_bytes=budget,
        ).loss.backward()
    assert 0 < sum(buffers.bytes.values()) <= budget


def test_objective_with_a_teacher_term_refuses_to_run_without_one() -> None:
    case = Case()
    with pytest.raises(ValueError, match="teacher"):
        distillation_loss(
            case.hidden,
            Head(case.weight),
            case.labels,
            terms(0.5, 0.5, "swap"),
            normaliser=1.0,
        )
