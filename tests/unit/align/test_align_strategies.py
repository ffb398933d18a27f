"""The order in which candidates are taken, against cases worked by hand."""

import math

import numpy as np
import pytest

from mixcpt.align.selection import rank

PLAIN = np.array([1.0, 5.0, 2.0, 6.0, 3.0, 7.0])
CHAT = np.array([1.5, 9.0, 4.0, 5.0, 2.0, 8.0])


def test_rank_known_gap_takes_known_half_by_falling_gap_then_fills_with_least_unknown() -> None:
    ranking = rank("known_gap", PLAIN, CHAT)
    # Median plain loss 4: candidates 0, 2 and 4 are known, with gaps 0.5, 2 and -1. The rest by plain loss: 1, 3, 5.
    assert ranking.order.tolist() == [2, 0, 4, 1, 3, 5]
    assert ranking.num_preferred == 3
    assert ranking.scores.tolist() == [0.5, 4.0, 2.0, -1.0, -1.0, 1.0]


def test_rank_ppl_low_takes_lowest_chat_loss_first_whatever_the_plain_loss() -> None:
    nothing = np.full(6, np.nan)
    ranking = rank("ppl_low", nothing, CHAT)
    assert ranking.order.tolist() == [0, 4, 2, 3, 5, 1]
    assert ranking.num_preferred == 6


def test_rank_ppl_low_plain_takes_lowest_plain_loss_first_whatever_the_chat_loss() -> None:
    assert rank("ppl_low_plain", PLAIN, np.full(6, np.nan)).order.tolist() == [0, 2, 4, 1, 3, 5]


def test_rank_gap_takes_what_the_chat_form_makes_hardest_known_or_not() -> None:
    ranking = rank("gap", PLAIN, CHAT)
    assert ranking.scores.tolist() == [0.5, 4.0, 2.0, -1.0, -1.0, 1.0]
    assert ranking.order.tolist() == [1, 2, 5, 0, 3, 4]


def test_rank_random_keeps_the_drawn_order_and_has_no_score() -> None:
    ranking = rank("random", np.full(4, np.nan), np.full(4, np.nan))
    assert ranking.order.tolist() == [0, 1, 2, 3]
    assert all(math.isnan(score) for score in ranking.scores)


@pytest.mark.parametrize("strategy", ["ppl_low", "ppl_low_plain", "gap", "known_gap"])
def test_rank_losses_that_differ_by_rounding_noise_keep_the_drawn_order(strategy: str) -> None:
    noise = np.array([3e-7, -2e-7, 1e-7, -3e-7, 0.0])
    ranking = rank(strategy, 2.0 + noise, 3.0 - noise)
    assert ranking.order.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("strategy", ["random", "ppl_low", "ppl_low_plain", "gap", "known_gap"])
@pytest.mark.parametrize("num_candidates", [0, 1])
def test_rank_hardly_any_candidates_takes_them_all(strategy: str, num_candidates: int) -> None:
    losses = np.ones(num_candidates)
    assert rank(strategy, losses, losses).order.tolist() == list(range(num_candidates))
