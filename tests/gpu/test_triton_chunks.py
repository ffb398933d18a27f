"""The Triton kernels against the torch operations and the plain formula, on a GPU or under Triton's interpreter.

`tests/unit/distill/test_distill_triton.py` runs this file on a CPU if triton is installed.
"""

import os
from importlib.util import find_spec
from itertools import product
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mixcpt.config import ObjectiveConfig
from mixcpt.distill import chunk, loss
from mixcpt.distill.chunk import ChunkResult, cross_entropy_, forward_kl_
from mixcpt.distill.loss import Teacher, distillation_loss, token_cross_entropy
from mixcpt.distill.model import Head
from mixcpt.mixture.rows import IGNORE_INDEX
from tests.unit.distill.objectives import terms

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="no CUDA device"),
]
TRANSFORMS = ("none", "swap", "margin", "threshold", "mask")
VOCABS = (5, 4096, 9001)
"""Sizes: less than a kernel's block, exactly one block, and two blocks plus a rest."""


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Use the kernels on any device."""
    from mixcpt.distill import triton_kernels

    for module in (chunk, loss):
        monkeypatch.setattr(module, "kernels_for", lambda device, dtype: triton_kernels)
    return triton_kernels


def make_logits(vocab: int, rows: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of student and teacher, the teacher's in steps of 1/4 (hence ties), and labels."""
    generator = torch.Generator().manual_seed(vocab)
    student = 3 * torch.randn(rows, vocab, generator=generator)
    teacher = (4 * (student + torch.randn(rows, vocab, generator=generator))).round() / 4
    labels = torch.randint(vocab, (rows,), generator=generator)
    labels[::3] = teacher.argmax(dim=1)[::3]
    return student.to(DEVICE), teacher.to(DEVICE), labels.to(DEVICE)


def by_torch(
    student: Tensor, teacher: Tensor, labels: Tensor, objective: ObjectiveConfig
) -> tuple[ChunkResult, Tensor]:
    """Return the result of the torch operations in float64, and the gradient."""
    gradient = student.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk, "kernels_for", lambda device, dtype: None)
        result = forward_kl_(gradient, teacher.double(), torch.empty_like(gradient), labels=labels, objective=objective)
    return result, gradient * result.factor


def assert_close(result: ChunkResult, gradient: Tensor, expected: ChunkResult, wanted: Tensor) -> None:
    for name in ("ce", "kl", "correct", "gap"):
        torch.testing.assert_close(getattr(result, name).double(), getattr(expected, name), rtol=1e-6, atol=1e-5)
    assert (gradient.double() * result.factor - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize(("vocab", "transform", "temperature"), list(product(VOCABS, TRANSFORMS, (1.0, 2.0))))
def test_forward_kl_equals_the_torch_operations(vocab: int, transform: str, temperature: float) -> None:
    student, teacher, labels = make_logits(vocab)
    objective = terms(0.3, 0.7, transform, temperature=temperature, margin=0.2)
    expected, wanted = by_torch(student, teacher, labels, objective)
    result = forward_kl_(student, teacher, None, labels=labels, objective=objective)
    assert_close(result, student, expected, wanted)


@pytest.mark.parametrize("vocab", VOCABS)
def test_cross_entropy_equals_torch(vocab: int) -> None:
    student, _, labels = make_logits(vocab)
    exact = student.double().requires_grad_()
    ce = functional.cross_entropy(exact, labels, reduction="none")
    (wanted,) = torch.autograd.grad(0.4 * ce.sum(), exact)
    result = cross_entropy_(student, labels, 0.4)
    torch.testing.assert_close(result.ce.double(), ce.detach(), rtol=2e-6, atol=2e-6)
    assert (student.double() * result.factor - wanted).norm() <= 1e-6 * wanted.norm()


def test_logits_in_wider_rows_leave_what_stands_beside_them() -> None:
    student, teacher, labels = make_logits(9001)
    objective = terms(0.5, 0.5, "swap")
    expected, wanted = by_torch(student, teacher, labels, objective)
    wide = torch.full((2, len(student), 9010), 7.0, device=DEVICE)
    wide[0, :, :9001], wide[1, :, :9001] = student, teacher
    result = forward_kl_(wide[0, :, :9001], wide[1, :, :9001], None, labels=labels, objective=objective)
    assert_close(result, wide[0, :, :9001], expected, wanted)
    assert (wide[:, :, 9001:] == 7).all()


@pytest.mark.parametrize("places", [(3, 4), (100, 5000), (4095, 4096), (8191, 8999)])
def test_first_of_equal_maxima_is_the_teachers_choice(kernels: ModuleType, places: tuple[int, int]) -> None:
    teacher = torch.zeros(2, 9000, device=DEVICE)
    teacher[0, list(places)] = 1.5
    teacher[1, places[1]] = 1.5
    result = kernels.statistics(torch.zeros_like(teacher), teacher, 1.0)
    assert result.top.squeeze(1).tolist() == list(places)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_student_that_equals_its_teacher_measures_no_divergence_at_all(temperature: float) -> None:
    logits, _, labels = make_logits(9001)
    result = forward_kl_(
        10 * logits,
        10 * logits,
        None,
        labels=labels,
        objective=terms(0.0, 1.0, "none", temperature=temperature),
    )
    assert not result.kl.any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_extreme_logits_stay_finite_and_exact(temperature: float) -> None:
    student = torch.tensor([[300.0, 0.0, -300.0], [0.0, 0.0, 0.0]], device=DEVICE)
    teacher = torch.tensor([[-200.0, 200.0, 0.0], [-150.0, 150.0, 0.0]], device=DEVICE)
    objective, labels = terms(0.5, 0.5, "swap", temperature=temperature), torch.tensor([2, 0], device=DEVICE)
    expected, wanted = by_torch(student, teacher, labels, objective)
    result = forward_kl_(student, teacher, None, labels=labels, objective=objective)
    assert torch.isfinite(student).all()
    assert_close(result, student, expected, wanted)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_whole_loss_with_soft_cap_and_weights_equals_the_one_without_kernels(
    transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight, teacher_hidden, teacher_weight, token_weights = (
        torch.randn(*shape, generator=generator).to(DEVICE) for shape in ((11, 8), (700, 8), (11, 5), (700, 5), (11,))
    )
    labels = torch.randint(700, (11,), generator=generator).to(DEVICE)
    labels[2:4] = IGNORE_INDEX
    objective = terms(0.4, 0.6, transform, temperature=2.0)
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        output = distillation_loss(
            inputs[0],
            Head(inputs[1], 0.5, 3.0),
            labels,
            objective,
            normaliser=9.0,
            teacher=Teacher(teacher_hidden.to(dtype), Head(teacher_weight.to(dtype))),
            token_weights=token_weights.to(dtype),
            budget_bytes=4 * 5 * 700 * dtype.itemsize,
        )
        results.append((output.loss, output.sums, *torch.autograd.grad(output.loss, inputs)))
        for module in (chunk, loss):
            monkeypatch.setattr(module, "kernels_for", lambda device, dtype: None)
    for result, wanted in zip(*results, strict=True):
        assert (result.double() - wanted).norm() <= 1e-6 * wanted.norm()


def test_probabilities_of_tokens_equal_those_of_torch() -> None:
    student, _, labels = make_logits(300)
    labels[1] = IGNORE_INDEX
    hidden = torch.eye(len(student), device=DEVICE)
    result = token_cross_entropy(hidden, Head(student.T.contiguous()), labels)
    expected = functional.cross_entropy(student.double(), labels, ignore_index=IGNORE_INDEX, reduction="none")
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=2e-6)


def test_objective_without_cross_entropy_has_only_the_teachers_gradient() -> None:
    student, teacher, labels = make_logits(4096)
    objective = terms(0.0, 1.0, "none")
    _, wanted = by_torch(student, teacher, labels, objective)
    result = forward_kl_(student, teacher, None, labels=labels, objective=objective)
    assert (student.double() * result.factor - wanted).norm() <= 1e-6 * wanted.norm()
