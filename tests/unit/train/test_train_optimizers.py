"""AdamW as configured: its formula, its 8-bit state, and the error if the library of that state is missing."""

import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, TrainingArguments

from mixcpt.config import OptimizerConfig
from mixcpt.errors import ConfigError
from mixcpt.train.optimizer import ScheduledTrainer, rate_factor, training_arguments

STEPS, SIZE = 6, 128
"""A matrix of SIZE x SIZE has enough elements to be kept in 8 bits."""
INPUTS = torch.randn(STEPS, SIZE, generator=torch.Generator().manual_seed(1))


class Regression(ScheduledTrainer):
    """Fits a matrix; a row of data is a step."""

    def __init__(self, folder: Path, settings: OptimizerConfig) -> None:
        arguments = training_arguments(settings, folder=folder, seed=0, micro_batch_size=1, checkpoint_steps=3)
        torch.manual_seed(0)
        super().__init__(
            model=_matrix(),
            args=TrainingArguments(**arguments, train_sampling_strategy="sequential", remove_unused_columns=False),
            train_dataset=[{"x": x} for x in INPUTS],  # type: ignore[arg-type]
            schedule=settings,
        )

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: object, **__: object) -> Tensor:
        return loss(model(inputs["x"]))


def _matrix() -> nn.Linear:
    """Return a model with the settings that the guard of the loss reads."""
    model = nn.Linear(SIZE, SIZE, bias=False)
    model.config = LlamaConfig(vocab_size=1_000)
    return model


def loss(outputs: Tensor) -> Tensor:
    return (outputs - 1).square().mean()


def adamw(weight: Tensor, settings: OptimizerConfig) -> Tensor:
    """Algorithm 2 of Loshchilov and Hutter (arXiv 1711.05101) in float64, its gradients clipped to their norm."""
    weight, mean, square = weight.double(), torch.tensor(0.0), torch.tensor(0.0)
    for step, x in enumerate(INPUTS.double()):
        weight = weight.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x @ weight.T), weight)
        if settings.max_grad_norm:
            gradient *= min(1.0, settings.max_grad_norm / float(gradient.norm()))
        mean = settings.beta1 * mean + (1 - settings.beta1) * gradient
        square = settings.beta2 * square + (1 - settings.beta2) * gradient**2
        unbiased = mean / (1 - settings.beta1 ** (step + 1)), square / (1 - settings.beta2 ** (step + 1))
        rate = settings.learning_rate * rate_factor(step, STEPS, settings)
        weight = weight - rate * (unbiased[0] / (unbiased[1].sqrt() + 1e-8) + settings.weight_decay * weight)
    return weight.detach()


@pytest.mark.parametrize(
    "settings",
    [
        OptimizerConfig(learning_rate=0.02),
        OptimizerConfig(learning_rate=0.02, beta1=0.5, beta2=0.7, weight_decay=0.3, max_grad_norm=0),
        OptimizerConfig(learning_rate=0.02, beta1=0.0, beta2=0.95, weight_decay=0.0, max_grad_norm=0.05),
    ],
)
def test_training_takes_the_steps_of_the_plain_formula(tmp_path: Path, settings: OptimizerConfig) -> None:
    trainer = Regression(tmp_path, settings)
    expected = adamw(trainer.model.weight.detach(), settings)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["fused"]
    torch.testing.assert_close(trainer.model.weight.detach().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_state_has_its_format_and_resumes_bit_for_bit(tmp_path: Path, state: Literal["fp32", "int8"]) -> None:
    if state == "int8":
        pytest.importorskip("bitsandbytes")
    settings = OptimizerConfig(learning_rate=0.02, state=state)
    straight, resumed = Regression(tmp_path, settings), Regression(tmp_path, settings)
    start = straight.model.weight.detach().clone()
    straight.train()
    (kept,) = straight.optimizer.state.values()
    formats = {value.dtype for value in kept.values() if torch.is_tensor(value) and value.shape == (SIZE, SIZE)}
    assert formats == {torch.uint8 if state == "int8" else torch.float32}
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(resumed.model.weight, straight.model.weight)
    expected = adamw(start, settings)
    error = (straight.model.weight.detach() - expected).norm() / (expected - start).norm()
    assert error < {"fp32": 1e-5, "int8": 0.05}[state]


def test_int8_state_without_its_library_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'mixcpt\[int8\]'"):
        training_arguments(OptimizerConfig(state="int8"), folder=tmp_path, seed=0, micro_batch_size=1)
