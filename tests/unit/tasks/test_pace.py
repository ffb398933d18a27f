"""When a stage will be over: by the rate of the last minutes, through pauses and resumes."""

import time
from datetime import datetime

import pytest

from tasks.pace import Pace, ending


def paced(*points: tuple[int, float], window_seconds: float = 300.0) -> Pace:
    pace = Pace(window_seconds)
    for step, seconds in points:
        pace.add(step, seconds)
    return pace


def test_rest_is_the_steps_left_at_the_measured_rate() -> None:
    assert paced((10, 100.0), (20, 105.0)).seconds_left(100) == pytest.approx(80 * 0.5)
    assert paced((10, 100.0), (20, 105.0), (30, 125.0)).seconds_left(100) == pytest.approx(70 * 25 / 20)


@pytest.mark.parametrize("points", [(), ((10, 100.0),), ((10, 100.0), (10, 200.0))])
def test_rest_is_unknown_before_two_steps_were_seen(points: tuple[tuple[int, float], ...]) -> None:
    assert paced(*points).seconds_left(100) is None


def test_rest_of_a_stage_without_a_known_length_is_unknown() -> None:
    assert paced((10, 100.0), (20, 105.0)).seconds_left(None) is None


def test_rest_forgets_what_was_slow_before_the_window() -> None:
    slow = [(step, 100.0 * step) for step in range(1, 5)]
    fast = [(4 + step, 400.0 + step) for step in range(1, 31)]
    assert paced(*slow, *fast, window_seconds=20).seconds_left(134) == pytest.approx(100.0)


def test_rest_after_a_resume_counts_neither_the_lost_steps_nor_the_pause() -> None:
    assert paced((90, 100.0), (100, 110.0), (80, 9000.0), (90, 9010.0)).seconds_left(100) == pytest.approx(10.0)


def test_rest_after_a_resume_that_lost_nothing_forgets_the_pause_with_the_next_step() -> None:
    assert paced((90, 100.0), (100, 110.0), (110, 9000.0), (120, 9010.0)).seconds_left(130) == pytest.approx(10.0)


def test_rest_at_the_end_is_nothing() -> None:
    assert paced((90, 100.0), (100, 110.0)).seconds_left(100) == 0


def test_ending_names_rest_and_clock_and_the_day_where_it_is_another() -> None:
    now = datetime(2026, 3, 1, 14, 0, 0).timestamp()
    zone = time.strftime("%Z", time.localtime(now))
    assert ending(150.0, now) == f"2 min 30 s left, until 14:02 {zone}"
    assert ending(36_000.0, now) == f"10 h 00 min left, until 02 Mar 00:00 {zone}"
    assert ending(None, now) == ""
