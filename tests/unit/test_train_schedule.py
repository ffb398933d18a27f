"""Learning rates: no step at rate 0, the peak reached, the end where it was asked for; the optimiser as configured."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from mixcpt.config import OptimizerConfig
from mixcpt.errors import ConfigError
from mixcpt.train.arguments import training_arguments
from mixcpt.train.schedule import ScheduledTrainer, rate_factor

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def factors(total: int, **settings: object) -> list[float]:
    config = OptimizerConfig(**settings)  # type: ignore[arg-type]
    return [rate_factor(step, total, config) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "warmup", "total"), list(itertools.product(SCHEDULES, (0.0, 0.05, 0.3, 0.8), (1, 2, 7, 200)))
)
def test_every_step_has_a_rate_and_the_peak_is_reached(schedule: str, warmup: float, total: int) -> None:
    found = factors(total, schedule=schedule, warmup_fraction=warmup)
    assert min(found) > 0 and max(found) == 1.0
    peak = found.index(1.0)
    assert found[: peak + 1] == sorted(found[: peak + 1]) and found[peak:] == sorted(found[peak:], reverse=True)


def test_hand_worked_rates() -> None:
    assert factors(6, schedule="linear", warmup_fraction=0.3) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    assert factors(5, schedule="wsd", warmup_fraction=0.2, decay_fraction=0.4) == pytest.approx([1, 1, 1, 1, 0.5])
    cosine = factors(4, schedule="cosine", warmup_fraction=0, final_fraction=0.2)
    assert cosine == pytest.approx([1, 0.2 + 0.8 * (1 + 2**-0.5) / 2, 0.6, 0.2 + 0.8 * (1 - 2**-0.5) / 2])
    assert factors(3, schedule="constant", warmup_fraction=0) == [1, 1, 1]


def test_trainer_takes_its_steps_at_these_rates(tmp_path: Path) -> None:
    """With plain gradient descent on a constant slope a weight falls by exactly the sum of the rates."""
    settings = OptimizerConfig(
        learning_rate=0.5, schedule="wsd", warmup_fraction=0.25, decay_fraction=0.5, weight_decay=0, max_grad_norm=0
    )
    arguments = training_arguments(settings, folder=tmp_path, seed=0, micro_batch_size=1)
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()

    class Slope(ScheduledTrainer):
        def compute_loss(self, model: nn.Module, inputs: object, *_: object, **__: object) -> torch.Tensor:
            return model.weight.sum()  # type: ignore[operator, union-attr]

    rows = [{"x": torch.zeros(1)} for _ in range(8)]
    trainer = Slope(
        model=model,
        args=TrainingArguments(**arguments | {"optim": "sgd"}, remove_unused_columns=False),
        train_dataset=rows,  # type: ignore[arg-type]
        schedule=settings,
    )
    trainer.train()
    rates = [0.5 * rate_factor(step, 8, settings) for step in range(8)]
    assert start - model.weight.item() == pytest.approx(sum(rates), rel=1e-6)


def test_arguments_hand_the_optimisers_settings_on(tmp_path: Path) -> None:
    settings = OptimizerConfig(beta1=0.8, beta2=0.95, weight_decay=0.1)
    arguments = training_arguments(settings, folder=tmp_path, seed=0, micro_batch_size=1)
    assert (arguments["adam_beta1"], arguments["adam_beta2"], arguments["weight_decay"]) == (0.8, 0.95, 0.1)
    assert arguments["optim"] == "adamw_torch_fused"


def test_int8_state_without_its_library_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'mixcpt\[int8\]'"):
        training_arguments(OptimizerConfig(state="int8"), folder=tmp_path, seed=0, micro_batch_size=1)


def test_wsd_that_is_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="must sum to 1"):
        OptimizerConfig(schedule="wsd", warmup_fraction=0.5, decay_fraction=0.6)
