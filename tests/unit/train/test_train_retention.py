"""Retention control: bounds on losses, the effect of the pressure, and moving the weights back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixcpt.config import AdaptConfig, ObjectiveConfig, RetentionConfig
from mixcpt.train.retention import (
    MAX_PRESSURE,
    NUM_BACK_STEPS,
    PRESSURE_FALL,
    PRESSURE_RISE,
    RetentionController,
    draw_back,
)
from mixcpt.train.tally import Tally, lost_at_most, questions_needed


class Answers:
    """A probe with fixed answers."""

    def __init__(self, tallies: Sequence[Tally]) -> None:
        self.digest = "d"
        self._tallies = iter(tallies)

    def ask(self, model: nn.Module) -> Mapping[str, Tally]:
        assert not model.training
        return {"kept": next(self._tallies)}


def controller_of(*tallies: Tally, **settings: Any) -> RetentionController:
    config = RetentionConfig(**({"max_loss": 0.02} | settings))
    return RetentionController(config, Answers(tallies), torch.tensor([1]))


def test_lost_at_most_holds_with_its_confidence() -> None:
    rng = np.random.default_rng(0)
    for share, most in ((0.01, 1.0), (0.05, 0.9), (0.2, 0.85)):
        lost = rng.binomial(132, share, size=4000)
        covered = np.mean([lost_at_most(int(count), 132, 0.8) >= share for count in lost])
        assert 0.8 - 0.02 <= covered <= most  # counts are integers, so the bound is conservative
    assert lost_at_most(5, 5, 0.8) == 1.0


def test_questions_needed_is_the_least_number_that_can_show_it() -> None:
    needed = questions_needed(0.02, 0.8)
    assert needed == 80  # the rule of three for 80 %: ln(0.2) / ln(0.98)
    assert lost_at_most(0, needed, 0.8) <= 0.02 < lost_at_most(0, needed - 1, 0.8)


def test_pressure_rises_if_more_is_lost_than_promised_and_falls_if_not() -> None:
    safe, unsafe = Tally(100, 4, 2), Tally(100, 4, 1)
    controller = controller_of(unsafe, unsafe, safe, *[unsafe] * 20)
    model = nn.Linear(2, 2)
    assert [controller.check(model) for _ in range(3)] == [False, False, True]
    assert controller.pressure == pytest.approx(2 * PRESSURE_RISE - PRESSURE_FALL)
    assert controller.metrics["retention/kept/lost"] == pytest.approx(0.02)
    for _ in range(20):
        controller.check(model)
    assert controller.pressure == MAX_PRESSURE
    assert model.training


def test_pressure_gives_the_true_tokens_weight_to_the_teacher_and_leaves_the_sum() -> None:
    controller = controller_of()
    controller.pressure = 0.4
    changed = controller.objective(ObjectiveConfig(ce_weight=0.5, kl_weight=0.5, transform="swap"))
    assert (changed.ce_weight, changed.kl_weight) == (pytest.approx(0.3), pytest.approx(0.7))
    untaught = ObjectiveConfig(ce_weight=1.0, kl_weight=0.0, transform="none")
    assert controller.objective(untaught) is untaught
    assert controller.token_weights(torch.tensor([0, 1])) is None


def test_pressure_moves_weight_from_domain_tokens_to_the_others() -> None:
    controller = controller_of(action="replay")
    assert controller.token_weights(torch.tensor([0, 1])) is None
    controller.pressure = 0.25
    weights = controller.token_weights(torch.tensor([0, 1, 2, 1]))
    assert weights is not None and weights.tolist() == [1.25, 0.75, 1.25, 0.75]
    taught = ObjectiveConfig(ce_weight=0.5, kl_weight=0.5, transform="none")
    assert controller.objective(taught) is taught


def test_controller_resumes_the_pressure_of_the_last_log() -> None:
    controller = controller_of()
    controller.resume(
        [{"retention/pressure": 0.1}, {"loss": 1.0, "retention/pressure": 0.3, "retention/kept/lost": 0.01}]
    )
    assert controller.pressure == 0.3
    assert controller.metrics["retention/kept/lost"] == 0.01


class Distance:
    """A probe whose losses grow with the distance of a weight from 0."""

    digest = "d"

    def ask(self, model: nn.Module) -> Mapping[str, Tally]:
        (weight,) = (value for name, value in model.named_parameters() if name == "weight")
        return {"kept": Tally(1000, round(100 * float(weight.abs().max())), 0)}


@pytest.mark.parametrize(("max_loss", "expected"), [(0.06, 0.5), (0.03, 0.2), (0.002, 0.0), (0.5, 1.0)])
def test_draw_back_goes_to_the_furthest_place_where_the_promise_holds(max_loss: float, expected: float) -> None:
    model = nn.Linear(1, 1, bias=True)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(7.0)
    controller = RetentionController(RetentionConfig(max_loss=max_loss), Distance(), torch.tensor([0]))
    share = draw_back(model, {"weight": torch.zeros(1, 1)}, controller)
    assert share == pytest.approx(expected, abs=1 / NUM_BACK_STEPS + 1e-6)
    assert model.weight.item() == pytest.approx(share)
    assert model.bias.item() == 7.0  # not trained
    if share:
        assert controller.holds(model)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"retention": {"max_loss": 0.02}}, "set evaluate.split to report"),
        ({"retention": {"max_loss": 0.02, "tasks": ["nothing"]}}, "'nothing', which is none of the tasks"),
        ({"retention": {"max_loss": 0.02, "tasks": ["domain_bits_per_byte"]}}, "cannot protect domain_bits_per_byte"),
        ({"retention": {"max_loss": 0.02, "tasks": ["domain_free_text"]}}, "cannot protect domain_free_text"),
        ({"retention": {"max_loss": 0.02}, "method": {"kind": "cpt_replay"}}, "alpha needs a teacher"),
    ],
)
def test_promises_that_cannot_be_watched_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AdaptConfig.model_validate({"pretrain": changes})


def test_promise_is_about_the_general_headline_unless_it_names_tasks() -> None:
    settings = {"evaluate": {"split": "report"}, "pretrain": {"retention": {"max_loss": 0.02}}}
    assert AdaptConfig.model_validate(settings).promised_tasks == ("general_questions_unasked",)
    assert AdaptConfig().promised_tasks == ()


def test_promise_to_replay_needs_general_text() -> None:
    with pytest.raises(ValueError, match="give a general pool a weight"):
        AdaptConfig.model_validate(
            {
                "evaluate": {"split": "report"},
                "mixture": {"weights": {"domain": 1, "instructions": 0, "preferences": 0}},
                "pretrain": {"method": {"kind": "cpt"}, "retention": {"max_loss": 0.02, "action": "replay"}},
            }
        )
