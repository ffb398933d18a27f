"""The teaching example trains, and computes the loss of the library."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcpt.config import ObjectiveConfig
from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.model import head_of, hidden_states
from mixcpt.mixture.rows import IGNORE_INDEX

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "lssd_in_100_lines.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The variables of the script after a run."""
    return runpy.run_path(str(SCRIPT))


def test_example_has_at_most_100_lines() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 100


def test_example_learns_new_facts_and_keeps_old_ones(example: dict[str, Any]) -> None:
    before, after = example["before"], example["after"]
    assert after["new"] > -1 > -4 > before["new"]
    assert after["old"] > before["old"] - 1


def test_loss_of_the_example_is_the_loss_of_the_library(example: dict[str, Any]) -> None:
    student, teacher = example["student"], example["teacher"]
    ids, positions, labels = (example[name][:4] for name in ("input_ids", "position_ids", "labels"))
    logits = [model(input_ids=ids, position_ids=positions, use_cache=False).logits for model in (student, teacher)]
    loss = example["lssd_loss"](*logits, labels)
    objective = ObjectiveConfig(
        ce_weight=example["ALPHA"],
        kl_weight=1 - example["ALPHA"],
        transform="swap",
        temperature=example["TEMPERATURE"],
    )
    states = [hidden_states(model, ids, positions).flatten(0, 1) for model in (student, teacher)]
    expected = distillation_loss(
        states[0],
        head_of(student),
        labels.flatten(),
        objective,
        normaliser=float((labels != IGNORE_INDEX).sum()),
        teacher=Teacher(states[1].detach(), head_of(teacher)),
    ).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(value, student.get_input_embeddings().weight)[0] for value in (loss, expected)]
    assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[1].norm()
