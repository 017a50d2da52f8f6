"""The lease's state machine: its belief never outlives the store's, terminal states stay, renewals come in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runlease.leasestate import JITTER, MARGIN_PART, MARGIN_S, LeaseMachine, LeaseState, Loss

TTLS = st.floats(5.0, 3600.0)
DELAYS = st.floats(0.0, 100.0)
MOMENTS = st.floats(0.0, 1e6)
RANDOMS = st.floats(0.0, 1.0)
LOSS = Loss("superseded", "a newer fence was granted")


@given(MOMENTS, TTLS, DELAYS, DELAYS)
def test_the_deadline_is_never_later_than_the_stores_expiry(
    sent_at: float, ttl: float, to_store: float, back: float
) -> None:
    # The store's script ran some time after the request was sent; what remained counts from then.
    machine = LeaseMachine(ttl, sent_at, ttl)
    expiry = sent_at + to_store + ttl
    assert machine.deadline <= expiry
    assert machine.deadline <= sent_at + ttl - MARGIN_S
    assert machine.state(expiry) is LeaseState.SUSPENDED
    arrived = sent_at + to_store + back
    assert (machine.state(arrived) is LeaseState.HELD) == (arrived < machine.deadline)


@given(TTLS, st.lists(st.tuples(DELAYS, DELAYS, DELAYS, st.booleans()), max_size=12))
def test_renewals_never_move_the_deadline_beyond_the_stores_expiry(
    ttl: float, calls: list[tuple[float, float, float, bool]]
) -> None:
    # Given calls with any delays of which some answers are lost: the store renews all of them.
    now, expiry = 0.0, ttl
    machine = LeaseMachine(ttl, now, ttl)
    for pause, to_store, back, answered in calls:
        sent_at = now + pause
        decided = sent_at + to_store
        expiry = max(expiry, decided + ttl)
        now = decided + back
        if answered:
            machine.renewed(sent_at, ttl)
        else:
            machine.failed()
        assert machine.deadline <= expiry
        assert machine.state(expiry) is LeaseState.SUSPENDED


@given(MOMENTS, TTLS, st.floats(0.0, 3600.0), st.floats(0.0, 3600.0))
def test_answers_out_of_order_never_shorten_the_deadline(at: float, ttl: float, first: float, second: float) -> None:
    machine = LeaseMachine(ttl, at, ttl)
    machine.renewed(at + first, ttl)
    before = machine.deadline
    machine.renewed(at + first - min(first, second), ttl)
    assert machine.deadline == before


@given(st.floats(1.0, 1e6), st.floats(0.0, 3600.0))
def test_one_percent_and_250_ms_are_left_aside(sent_at: float, remaining: float) -> None:
    machine = LeaseMachine(30.0, sent_at, remaining)
    assert machine.deadline == pytest.approx(sent_at + 0.99 * remaining - 0.25)
    assert (MARGIN_PART, MARGIN_S) == (0.01, 0.25)
    held = machine.remaining_s(sent_at)
    assert held == pytest.approx(max(0.0, 0.99 * remaining - 0.25), abs=1e-6)


def test_held_until_the_deadline_and_suspended_from_it_on() -> None:
    machine = LeaseMachine(30.0, 100.0, 30.0)
    before = machine.deadline - 1e-6
    assert (machine.state(before), machine.state(machine.deadline)) == (LeaseState.HELD, LeaseState.SUSPENDED)
    assert machine.remaining_s(machine.deadline + 5) == 0.0


def test_a_suspended_lease_comes_back_with_a_renewal() -> None:
    machine = LeaseMachine(30.0, 0.0, 30.0)
    assert machine.state(60.0) is LeaseState.SUSPENDED
    machine.renewed(60.0, 30.0)
    assert machine.state(60.1) is LeaseState.HELD


def test_a_grant_with_nothing_left_is_never_held() -> None:
    machine = LeaseMachine(30.0, 10.0, 0.0)
    assert machine.state(10.0) is LeaseState.SUSPENDED
    assert machine.remaining_s(10.0) == 0.0


ENDINGS = st.lists(st.sampled_from(["lost", "released", "renewed", "failed"]), max_size=12)


@given(ENDINGS)
def test_lost_and_released_are_terminal(steps: list[str]) -> None:
    machine = LeaseMachine(30.0, 0.0, 30.0)
    ended: LeaseState | None = None
    for number, step in enumerate(steps):
        if step == "lost":
            assert machine.lost(LOSS) == (ended is None)
            ended = ended or LeaseState.LOST
        elif step == "released":
            machine.released()
            ended = ended or LeaseState.RELEASED
        elif step == "renewed":
            machine.renewed(float(number), 30.0)
        else:
            machine.failed()
        for now in (0.0, 20.0, 1e9):
            if ended is not None:
                assert machine.state(now) is ended
                assert machine.remaining_s(now) == 0.0
            else:
                assert machine.state(now) in (LeaseState.HELD, LeaseState.SUSPENDED)
    assert machine.loss == (LOSS if ended is LeaseState.LOST else None)


def test_belief_ends_before_the_release_is_sent() -> None:
    machine = LeaseMachine(30.0, 0.0, 30.0)
    machine.releasing()
    for step in (machine.failed, lambda: machine.renewed(1.0, 30.0)):  # a renewal that was on its way
        step()
        assert (machine.state(2.0), machine.remaining_s(2.0)) == (LeaseState.RELEASED, 0.0)
    assert machine.lost(LOSS)  # the release's answer: somebody else was granted before it came
    assert machine.state(2.0) is LeaseState.LOST


def test_the_first_cause_of_a_loss_stays() -> None:
    machine = LeaseMachine(30.0, 0.0, 30.0)
    assert machine.lost(LOSS)
    assert not machine.lost(Loss("deleted", "the run was deleted"))
    assert machine.loss is LOSS


@given(MOMENTS, TTLS, RANDOMS)
def test_renewals_are_a_third_of_the_ttl_apart_with_jitter(sent_at: float, ttl: float, chance: float) -> None:
    machine = LeaseMachine(ttl, sent_at, ttl)
    pause = machine.next_renewal(sent_at, lambda: chance) - sent_at
    assert ttl / 3 * (1 - JITTER) - 1e-6 <= pause <= ttl / 3 * (1 + JITTER) + 1e-6
    assert sent_at + pause < machine.deadline


def test_the_jitter_takes_its_whole_range() -> None:
    machine = LeaseMachine(30.0, 0.0, 30.0)
    due = [machine.next_renewal(0.0, lambda chance=chance: chance) for chance in (0.0, 0.5, 1.0)]
    assert due == pytest.approx([9.0, 10.0, 11.0])


@given(TTLS, st.integers(1, 60), RANDOMS)
def test_after_failures_renewals_come_sooner_but_not_in_a_rush(ttl: float, failures: int, chance: float) -> None:
    machine = LeaseMachine(ttl, 0.0, ttl)
    for _ in range(failures):
        machine.failed()
    pause = machine.next_renewal(1000.0, lambda: chance) - 1000.0
    assert ttl / 60 * (1 - JITTER) - 1e-6 <= pause <= ttl / 6 * (1 + JITTER) + 1e-6


def test_a_coordinator_may_stay_away_for_hours() -> None:
    # Given more failures than the exponent of a double has room for: the renewing thread must not die of it.
    machine = LeaseMachine(30.0, 0.0, 30.0)
    for _ in range(5000):
        machine.failed()
    assert machine.next_renewal(1000.0, lambda: 0.5) == pytest.approx(1005.0)


@given(TTLS, RANDOMS)
def test_several_tries_fit_before_the_deadline(ttl: float, chance: float) -> None:
    # Given renewals that fail at once, starting at the regular one.
    machine = LeaseMachine(ttl, 0.0, ttl)
    now, tries = machine.next_renewal(0.0, lambda: chance), 0
    while now < machine.deadline:
        tries += 1
        machine.failed()
        now = machine.next_renewal(now, lambda: chance)
    assert tries >= 4


@given(TTLS, st.integers(1, 5))
def test_a_success_ends_the_row_of_failures(ttl: float, failures: int) -> None:
    machine = LeaseMachine(ttl, 0.0, ttl)
    for _ in range(failures):
        machine.failed()
    machine.renewed(5.0, ttl)
    assert machine.next_renewal(5.0, lambda: 0.5) == pytest.approx(5.0 + ttl / 3)
