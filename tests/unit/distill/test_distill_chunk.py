"""Forward KL of one chunk: its passes over the vocabulary, and its exact operations."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.chunk import forward_kl_
from mixcpt.distill.targets import TRANSFORMS
from tests.unit.distill.objectives import terms


class VocabPasses(TorchDispatchMode):
    """Counts the operations on whole matrices of logits."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape, self.passes = shape, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [value for value in (*args, result, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        if any(tuple(tensor.shape) == self.shape for tensor in tensors) and not name.startswith(("gather", "scatter")):
            self.passes[name] += 1
        return result


def passes_of(objective: ObjectiveConfig) -> int:
    rows, vocab = 4, 1000
    buffers = [torch.randn(rows, vocab) for _ in range(3)]
    with VocabPasses((rows, vocab)) as mode:
        forward_kl_(*buffers, labels=torch.arange(rows), objective=objective)
    return mode.passes.total()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_swap_costs_no_pass_over_the_vocabulary_more_than_plain_distillation(temperature: float) -> None:
    plain = passes_of(terms(0.5, 0.5, "none", temperature=temperature))
    assert plain == {1.0: 9, 2.0: 16}[temperature]
    more = {name: passes_of(terms(0.5, 0.5, name, temperature=temperature)) - plain for name in TRANSFORMS}
    assert more == {"none": 0, "swap": 0, "margin": 1, "threshold": 1, "mask": 2}


@pytest.mark.parametrize("transform", ["none", "swap"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_forward_kl_keeps_its_bits(transform: str, temperature: float) -> None:
    """No operation has changed since the first release: a run resumed after an update ends with the same weights."""
    objective, generator = terms(0.4, 0.6, transform, temperature=temperature), torch.Generator().manual_seed(11)
    student, labels = torch.randn(29, 23, generator=generator), torch.randint(23, (29,), generator=generator)
    teacher = torch.randint(-3, 4, (29, 23), generator=generator).float()
    buffers = student.clone(), teacher.clone(), torch.empty_like(student)
    result = forward_kl_(*buffers, labels=labels, objective=objective)
    ce, kl, gradient, factor = first_release(student, teacher, labels, objective)
    assert torch.equal(result.ce, ce) and torch.equal(result.kl, kl)
    assert torch.equal(buffers[0], gradient) and result.factor == factor


def first_release(
    student: Tensor, teacher: Tensor, labels: Tensor, objective: ObjectiveConfig
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return CE, T^2 KL, the gradient divided by the factor, and the factor."""
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
