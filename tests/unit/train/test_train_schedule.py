"""Learning rates: no step at rate 0, the peak reached, the configured end, exact resume."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, TrainingArguments

from mixcpt.config import OptimizerConfig
from mixcpt.train.optimizer import ScheduledTrainer, rate_factor, training_arguments

STEPS = 8
SCHEDULES = ("cosine", "linear", "constant", "wsd")


def factors(total: int, **settings: object) -> list[float]:
    config = OptimizerConfig(**settings)  # type: ignore[arg-type]
    return [rate_factor(step, total, config) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "warmup", "total"), list(itertools.product(SCHEDULES, (0.0, 0.05, 0.3, 0.8), (1, 2, 7, 200)))
)
def test_every_step_has_a_rate_and_the_peak_is_reached(schedule: str, warmup: float, total: int) -> None:
    rates = factors(total, schedule=schedule, warmup_fraction=warmup)
    assert min(rates) > 0 and max(rates) == 1.0
    peak = rates.index(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(("fraction", "total", "steps"), [(0.07, 100, 7), (0.05, 140, 7), (0.05, 141, 8), (0.05, 1, 1)])
def test_shares_of_the_steps_are_rounded_up_from_what_was_written(fraction: float, total: int, steps: int) -> None:
    """In floating point 0.07 * 100 and 0.05 * 140 are a little more than 7."""
    assert factors(total, schedule="constant", warmup_fraction=fraction).count(1.0) == total - steps + 1
    decaying = factors(total, schedule="wsd", warmup_fraction=0, decay_fraction=fraction, final_fraction=0.5)
    assert decaying.count(1.0) == total - steps + 1  # the first step of the decay is still at the peak


def test_hand_worked_rates() -> None:
    assert factors(6, schedule="linear", warmup_fraction=0.3) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    assert factors(5, schedule="wsd", warmup_fraction=0.2, decay_fraction=0.4) == pytest.approx([1, 1, 1, 1, 0.5])
    cosine = factors(4, schedule="cosine", warmup_fraction=0, final_fraction=0.2)
    assert cosine == pytest.approx([1, 0.2 + 0.8 * (1 + 2**-0.5) / 2, 0.6, 0.2 + 0.8 * (1 - 2**-0.5) / 2])
    assert factors(3, schedule="constant", warmup_fraction=0) == [1, 1, 1]


def _line() -> nn.Linear:
    """Return a model with the settings that the guard of the loss reads."""
    model = nn.Linear(1, 1, bias=False)
    model.config = LlamaConfig(vocab_size=1_000)
    return model


class Slope(ScheduledTrainer):
    """Descends a constant slope, on which a weight falls by exactly the sum of the rates; records the rates."""

    def __init__(self, folder: Path, settings: OptimizerConfig, optim: str) -> None:
        arguments = training_arguments(settings, folder=folder, seed=0, micro_batch_size=1, checkpoint_steps=1)
        torch.manual_seed(0)
        super().__init__(
            model=_line(),
            args=TrainingArguments(**arguments | {"optim": optim, "save_total_limit": 20}, remove_unused_columns=False),
            train_dataset=[{"x": torch.zeros(1)} for _ in range(STEPS)],  # type: ignore[arg-type]
            schedule=settings,
        )
        self.rates: list[float] = []

    def compute_loss(self, model: nn.Module, inputs: object, *_: object, **__: object) -> torch.Tensor:
        self.rates.append(self.optimizer.param_groups[0]["lr"])  # type: ignore[union-attr]
        return model.weight.sum()  # type: ignore[operator, union-attr]


def test_trainer_takes_its_steps_at_these_rates(tmp_path: Path) -> None:
    settings = OptimizerConfig(
        learning_rate=0.5, schedule="wsd", warmup_fraction=0.25, decay_fraction=0.5, weight_decay=0, max_grad_norm=0
    )
    trainer = Slope(tmp_path, settings, "sgd")
    start = trainer.model.weight.item()
    trainer.train()
    rates = [0.5 * rate_factor(step, STEPS, settings) for step in range(STEPS)]
    assert trainer.rates == rates
    assert start - trainer.model.weight.item() == pytest.approx(sum(rates), rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("done", [1, 6])
def test_resumed_trainer_goes_on_at_the_same_rates_to_the_same_weight(tmp_path: Path, schedule: str, done: int) -> None:
    """From the middle of the warm-up, and of the decay."""
    settings = OptimizerConfig(schedule=schedule, warmup_fraction=0.25, decay_fraction=0.5)  # type: ignore[arg-type]
    straight = Slope(tmp_path, settings, "adamw_torch_fused")
    straight.train()
    resumed = Slope(tmp_path, settings, "adamw_torch_fused")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{done}"))
    assert resumed.rates == straight.rates[done:] and len(resumed.rates) == STEPS - done
    assert torch.equal(resumed.model.weight, straight.model.weight)


def test_wsd_that_is_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at most 1"):
        OptimizerConfig(schedule="wsd", warmup_fraction=0.5, decay_fraction=0.6)
