"""The latest store time to believe, by what was seen of it."""

from __future__ import annotations

import random

from runlease_coordinator.store.clock import ClockGuard

WINDOW_S = 60.0
#: Store time less the own clock's, in microseconds.
APART = 1_700_000_000_000_000


def seen(guard: ClockGuard, at: float, ahead_s: float = 0.0, way_s: float = 0.0) -> None:
    """Look at a store's clock that is so far ahead; its answer was made ``way_s`` after the request was sent."""
    guard.observe(APART + int((at + way_s + ahead_s) * 1e6), at)


def slack_s(guard: ClockGuard, at: float) -> float:
    return (guard.latest_us(at) - APART) / 1e6 - at


def test_nothing_is_known_of_a_clock_that_was_never_seen() -> None:
    assert ClockGuard(WINDOW_S).latest_us(0.0) > APART * 4


def test_it_lets_pass_a_second_and_a_hundredth_of_the_time_since() -> None:
    guard = ClockGuard(WINDOW_S)
    seen(guard, 100.0)
    assert abs(slack_s(guard, 100.0) - 1.0) < 1e-3
    assert abs(slack_s(guard, 130.0) - 1.3) < 1e-3


def test_steps_below_the_slack_do_not_add_up() -> None:
    guard = ClockGuard(WINDOW_S)
    for step in range(6):
        seen(guard, 100.0 + 5 * step, ahead_s=0.9 * step)
    assert slack_s(guard, 125.0) < 1.3


def test_a_slow_request_makes_it_no_more_lenient_than_a_fast_one_before() -> None:
    guard = ClockGuard(WINDOW_S)
    seen(guard, 100.0)
    seen(guard, 101.0, way_s=20.0)
    assert slack_s(guard, 101.0) < 1.1


def test_a_step_back_counts_at_once_and_a_step_on_once_its_window_is_over() -> None:
    guard = ClockGuard(WINDOW_S)
    seen(guard, 100.0)
    seen(guard, 101.0, ahead_s=-30.0)
    assert slack_s(guard, 101.0) < -28.9
    for at in range(102, 170):
        seen(guard, float(at))
    assert 0 < slack_s(guard, 169.0) < 2


def test_one_sighting_is_kept_however_old() -> None:
    guard = ClockGuard(WINDOW_S)
    seen(guard, 100.0)
    assert slack_s(guard, 100.0 + 3600) < 38


def test_it_never_believes_more_than_the_lowest_offset_of_its_window_and_stays_small() -> None:
    chance, guard, sightings = random.Random(1), ClockGuard(WINDOW_S), []
    at = ahead = 0.0
    for _ in range(20_000):
        at += chance.expovariate(50.0)
        ahead += chance.uniform(-0.001, 0.002)
        seen(guard, at, ahead)
        sightings.append((at, ahead))
        sightings = [one for one in sightings if one[0] >= at - WINDOW_S]
        lowest = min(offset for _, offset in sightings)
        # A grain of a second is one sighting: what it hides is what the clock gains within it.
        assert slack_s(guard, at) <= lowest + 1.0 + 0.01 * (WINDOW_S + 1) + 0.2
    assert len(guard._lowest) <= WINDOW_S + 2
