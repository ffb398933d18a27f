"""A promise while training: what the probe can show, what pressure changes, how far the weights go back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixcpt.config import AdaptConfig, RetentionConfig
from mixcpt.distill.objective import Objective
from mixcpt.train.retention import FALL, MOST, RISE, STEPS_BACK, RetentionController, draw_back
from mixcpt.train.tally import Tally, lost_at_most, questions_needed

PROMISE = RetentionConfig(max_loss=0.02)


class Answers:
    """A probe whose answers are given beforehand."""

    def __init__(self, tallies: Sequence[Tally]) -> None:
        self.digest = "d"
        self._tallies = iter(tallies)

    def ask(self, model: nn.Module) -> Mapping[str, Tally]:
        assert not model.training
        return {"kept": next(self._tallies)}


def keeper(*tallies: Tally, **settings: Any) -> RetentionController:
    promise = RetentionConfig(**({"max_loss": 0.02} | settings))
    return RetentionController(promise, Answers(tallies), torch.tensor([1]))


def test_lost_at_most_is_right_as_often_as_it_is_sure() -> None:
    rng = np.random.default_rng(0)
    for share, most in ((0.01, 1.0), (0.05, 0.9), (0.2, 0.85)):
        lost = rng.binomial(132, share, size=4000)
        covered = np.mean([lost_at_most(int(count), 132, 0.8) >= share for count in lost])
        assert 0.8 - 0.02 <= covered <= most  # counts are whole, so it is never less sure than it says
    assert lost_at_most(5, 5, 0.8) == 1.0


def test_questions_needed_is_the_least_number_that_can_show_it() -> None:
    needed = questions_needed(0.02, 0.8)
    assert needed == 80  # the rule of three for 80 %: ln(0.2) / ln(0.98)
    assert lost_at_most(0, needed, 0.8) <= 0.02 < lost_at_most(0, needed - 1, 0.8)


def test_pressure_rises_where_more_is_lost_than_promised_and_falls_where_not() -> None:
    safe, unsafe = Tally(100, 4, 2), Tally(100, 4, 1)
    keeping = keeper(unsafe, unsafe, safe, *[unsafe] * 20)
    model = nn.Linear(2, 2)
    assert [keeping.look(model) for _ in range(3)] == [False, False, True]
    assert keeping.pressure == pytest.approx(2 * RISE - FALL)
    assert keeping.measures["retention/kept/lost"] == pytest.approx(0.02)
    for _ in range(20):
        keeping.look(model)
    assert keeping.pressure == MOST
    assert model.training


def test_pressure_gives_the_true_tokens_weight_to_the_teacher_and_leaves_the_sum() -> None:
    keeping = keeper()
    keeping.pressure = 0.4
    changed = keeping.objective(Objective(ce_weight=0.5, kl_weight=0.5, transform="swap"))
    assert (changed.ce_weight, changed.kl_weight) == (pytest.approx(0.3), pytest.approx(0.7))
    alone = Objective(ce_weight=1.0)
    assert keeping.objective(alone) is alone
    assert keeping.token_weights(torch.tensor([0, 1])) is None


def test_pressure_moves_weight_from_domain_tokens_to_the_others() -> None:
    keeping = keeper(action="replay")
    assert keeping.token_weights(torch.tensor([0, 1])) is None
    keeping.pressure = 0.25
    weights = keeping.token_weights(torch.tensor([0, 1, 2, 1]))
    assert weights is not None and weights.tolist() == [1.25, 0.75, 1.25, 0.75]
    taught = Objective(ce_weight=0.5, kl_weight=0.5)
    assert keeping.objective(taught) is taught


def test_keeper_resumes_the_pressure_of_the_last_log() -> None:
    keeping = keeper()
    keeping.resume([{"retention/pressure": 0.1}, {"loss": 1.0, "retention/pressure": 0.3, "retention/kept/lost": 0.01}])
    assert keeping.pressure == 0.3
    assert keeping.measures["retention/kept/lost"] == 0.01


class Distance:
    """A probe that loses questions with the distance of a weight from 0."""

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
    keeping = RetentionController(RetentionConfig(max_loss=max_loss), Distance(), torch.tensor([0]))
    share = draw_back(model, {"weight": torch.zeros(1, 1)}, keeping)
    assert share == pytest.approx(expected, abs=1 / STEPS_BACK + 1e-6)
    assert model.weight.item() == pytest.approx(share)
    assert model.bias.item() == 7.0  # not trained
    if share:
        assert keeping.holds(model)


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
