"""The remaining time of a stage is estimated from the last minutes, across pauses and resumes."""

import time
from datetime import datetime

import pytest

from tasks.progress import Pace, remaining_text


def paced(*points: tuple[int, float], window_seconds: float = 300.0) -> Pace:
    pace = Pace(window_seconds)
    for step, seconds in points:
        pace.add(step, seconds)
    return pace


def test_remaining_time_is_the_remaining_steps_at_the_measured_rate() -> None:
    assert paced((10, 100.0), (20, 105.0)).seconds_left(100) == pytest.approx(80 * 0.5)
    assert paced((10, 100.0), (20, 105.0), (30, 125.0)).seconds_left(100) == pytest.approx(70 * 25 / 20)


@pytest.mark.parametrize("points", [(), ((10, 100.0),), ((10, 100.0), (10, 200.0))])
def test_remaining_time_is_unknown_before_two_steps(points: tuple[tuple[int, float], ...]) -> None:
    assert paced(*points).seconds_left(100) is None


def test_remaining_time_is_unknown_while_all_steps_came_at_once() -> None:
    assert paced((1, 100.0), (12, 100.2)).seconds_left(72) is None


def test_remaining_time_without_total_steps_is_unknown() -> None:
    assert paced((10, 100.0), (20, 105.0)).seconds_left(None) is None


def test_remaining_time_ignores_slow_steps_before_the_window() -> None:
    slow = [(step, 100.0 * step) for step in range(1, 5)]
    fast = [(4 + step, 400.0 + step) for step in range(1, 31)]
    assert paced(*slow, *fast, window_seconds=20).seconds_left(134) == pytest.approx(100.0)


def test_remaining_time_after_a_resume_ignores_lost_steps_and_the_pause() -> None:
    assert paced((90, 100.0), (100, 110.0), (80, 9000.0), (90, 9010.0)).seconds_left(100) == pytest.approx(10.0)


def test_remaining_time_after_a_resume_without_lost_steps_ignores_the_pause_after_one_step() -> None:
    assert paced((90, 100.0), (100, 110.0), (110, 9000.0), (120, 9010.0)).seconds_left(130) == pytest.approx(10.0)


def test_remaining_time_at_the_end_is_zero() -> None:
    assert paced((90, 100.0), (100, 110.0)).seconds_left(100) == 0


def test_remaining_text_has_time_and_clock_and_the_day_if_it_differs() -> None:
    now = datetime(2026, 3, 1, 14, 0, 0).timestamp()
    zone = time.strftime("%Z", time.localtime(now))
    assert remaining_text(150.0, now) == f"2 min 30 s left, until 14:02 {zone}"
    assert remaining_text(36_000.0, now) == f"10 h 00 min left, until 02 Mar 00:00 {zone}"
    assert remaining_text(None, now) == ""
