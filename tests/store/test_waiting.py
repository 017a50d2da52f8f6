"""Waiting for a lease: in order of arrival, over several coordinators, whatever message or caller gets lost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from runlease_coordinator.domain.errors import LeaseHeld, NoHolder, RunDeleted, RunNotFound, Stale, Unavailable
from runlease_coordinator.domain.leases import Acquisition, Fork, Grant, Patience, ProofOfDeath, ResumeMode
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store import leases as lease_module
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.leases import LeaseStore
from runlease_coordinator.store.wakeups import Wakeups

from tests.support.stores import HOLDER, LiveStore, points_entry, writer_of
from tests.support.wait import until

#: Longer than any of these tests may take: who gets the lease without a refresh was woken, or knew the time.
NEVER_S = 3600.0
LONG = Patience(20_000_000, last=False)


@pytest.fixture
def coordinators(live: LiveStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LeaseStore]]:
    """Two coordinators on one store, whose waiters look again only when they are woken or the lease can be free."""
    monkeypatch.setattr(lease_module, "_REFRESH_S", NEVER_S)
    wakeups = [Wakeups(live.store.place) for _ in range(2)]

    async def start() -> None:
        for one in wakeups:
            one.start()

    live.run(start())
    until(lambda: live.raw.pubsub_numsub("rl:wake")[0][1] >= 3)
    yield [LeaseStore(live.store, one, 0) for one in wakeups]
    for one in wakeups:
        live.run(one.close())


def wish(project: str, nonce: str, mode: str = "allow", **more: Any) -> Acquisition:
    return Acquisition(project, "r", "r", ResumeMode(mode), nonce, 30_000_000, more.pop("holder", HOLDER), **more)


def queue(live: LiveStore, project: str) -> list[str]:
    return live.raw.zrange(run_keys(project, "r").wait, 0, -1)


def waits(live: LiveStore, leases: LeaseStore, project: str, nonce: str, **more: Any) -> Future[Grant]:
    """Start to wait; returns once the place is taken."""
    waiter = live.spawn(leases.acquire(wish(project, nonce, **more), LONG))
    until(lambda: nonce in queue(live, project) or waiter.done())
    return waiter


def test_waiters_are_served_in_the_order_in_which_they_came(
    live: LiveStore, project: str, coordinators: list[LeaseStore]
) -> None:
    fence = live.acquire(project).fence
    waiters = [waits(live, coordinators[number % 2], project, f"n{number}") for number in range(8)]
    assert queue(live, project) == [f"n{number}" for number in range(8)]
    for number, waiter in enumerate(waiters):
        assert not any(other.done() for other in waiters[number:])
        live.release(project, fence)
        grant = waiter.result(20)
        assert grant.fence > fence
        assert grant.attempt == number + 2
        fence = grant.fence
    assert queue(live, project) == []


def _release(live: LiveStore, project: str, grant: Grant) -> None:
    live.release(project, grant.fence)


def _break(live: LiveStore, project: str, grant: Grant) -> None:
    live.run(live.leases.break_lease(project, "r", grant.fence, force=True, reason="why", by="ada"))


def _give_back(live: LiveStore, project: str, grant: Grant) -> None:
    assert live.run(live.leases.give_back(project, "r", grant.fence))


def _prove(live: LiveStore, project: str, grant: Grant) -> None:
    """Somebody else on the holder's machine proves it dead, and is told that others are first."""
    proof = ProofOfDeath(grant.fence, HOLDER.boot_id, HOLDER.pid_namespace, HOLDER.pid, HOLDER.process_started)
    with pytest.raises(LeaseHeld) as caught:
        live.acquire(project, proof=proof)
    assert caught.value.reason == "LEASE_QUEUED"


ENDS: dict[str, Callable[[LiveStore, str, Grant], None]] = {
    "release": _release,
    "break": _break,
    "give back": _give_back,
    "proof": _prove,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("head_leaves", [False, True])
def test_whatever_frees_a_lease_wakes_whose_turn_it_is(
    live: LiveStore, project: str, coordinators: list[LeaseStore], end: str, head_leaves: bool
) -> None:
    live.release(project, live.acquire(project).fence)
    held = live.acquire(project)
    first = waits(live, coordinators[0], project, "n1")
    second = waits(live, coordinators[1], project, "n2")
    if head_leaves:
        first.cancel()
        until(lambda: queue(live, project) == ["n2"])
    ENDS[end](live, project, held)
    if not head_leaves:
        live.release(project, first.result(20).fence)
    assert second.result(20).fence > held.fence


def test_the_head_knows_when_a_lease_expires(live: LiveStore, project: str, coordinators: list[LeaseStore]) -> None:
    held = live.acquire(project, ttl_us=400_000)
    first = waits(live, coordinators[0], project, "n1")
    grant = first.result(20)
    assert (grant.previous_state, grant.attempt) == (RunState.CRASHED, 2)
    assert grant.fence > held.fence


def test_a_lost_message_costs_a_refresh_and_no_more(
    live: LiveStore, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_REFRESH_S", 0.02)
    deaf = LeaseStore(live.store, Wakeups(live.store.place), 0)
    fence = live.acquire(project).fence
    waiters = [waits(live, deaf, project, f"n{number}") for number in range(3)]
    for waiter in waiters:
        live.release(project, fence)
        fence = waiter.result(20).fence


def test_nobody_barges_in_while_a_place_lives(
    live: LiveStore, project: str, coordinators: list[LeaseStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "PLACE_LIFE_US", 400_000)
    fence = live.acquire(project).fence
    # Given a waiter whose call has ended, and that has said that it comes back.
    with pytest.raises(LeaseHeld) as caught:
        live.run(live.leases.acquire(wish(project, "n1"), Patience(1, last=False)))
    assert (caught.value.reason, caught.value.place) == ("LEASE_HELD", 1)
    live.release(project, fence)
    lives_until = int(live.raw.hget(run_keys(project, "r").waitx, "n1").split()[0])
    with pytest.raises(LeaseHeld) as caught:
        live.acquire(project)
    assert live.now_us() > lives_until or caught.value.reason == "LEASE_QUEUED"
    live.wait_past(lives_until)
    assert live.acquire(project).attempt == 2
    assert queue(live, project) == []


def test_who_does_not_come_back_leaves_the_queue(live: LiveStore, project: str, coordinators: list[LeaseStore]) -> None:
    live.acquire(project)
    with pytest.raises(LeaseHeld):
        live.run(coordinators[0].acquire(wish(project, "n1"), Patience(1, last=True)))
    until(lambda: queue(live, project) == [])


def test_waiters_of_a_deleted_run_are_told(live: LiveStore, project: str, coordinators: list[LeaseStore]) -> None:
    delayed = LeaseStore(live.store, live.wakeups, 30_000_000)
    fence = live.acquire(project, ttl_us=20_000, leases=delayed).fence
    live.wait_past(int(live.raw.hget(run_keys(project, "r").run, "expiry") or 0))
    waiters = [waits(live, coordinators[number], project, f"n{number}") for number in range(2)]
    live.run(live.runs.delete_run(project, "r", "r", fence, ""))
    for waiter in waiters:
        with pytest.raises(RunDeleted):
            waiter.result(20)
    assert queue(live, project) == []


def test_a_coordinator_that_stops_sends_its_waiters_elsewhere_and_keeps_their_places(
    live: LiveStore, project: str, coordinators: list[LeaseStore]
) -> None:
    fence = live.acquire(project).fence
    first = waits(live, coordinators[0], project, "n1")
    second = waits(live, coordinators[1], project, "n2")

    async def drain() -> None:
        coordinators[0].drain()

    live.run(drain())
    with pytest.raises(Unavailable) as caught:
        first.result(20)
    assert caught.value.reason == "DRAINING"
    assert queue(live, project) == ["n1", "n2"]
    again = waits(live, coordinators[1], project, "n1")
    live.release(project, fence)
    live.release(project, again.result(20).fence)
    assert second.result(20).attempt == 3


# Groups


def test_members_wait_for_the_grant_of_their_holder(
    live: LiveStore, project: str, coordinators: list[LeaseStore]
) -> None:
    ours = dataclasses.replace(HOLDER, group="g")
    members = [
        live.spawn(coordinators[n % 2].acquire(wish(project, f"m{n}", holder=ours, member=True), LONG))
        for n in range(3)
    ]
    other = dataclasses.replace(HOLDER, group="another")
    stranger = live.run(live.leases.acquire(wish(project, "s", holder=other)))
    with pytest.raises(NoHolder):
        live.run(live.leases.acquire(wish(project, "m9", holder=ours, member=True)))
    assert not any(member.done() for member in members)
    live.release(project, stranger.fence)
    grant = live.run(live.leases.acquire(wish(project, "h", holder=ours)))
    for member in members:
        joined = member.result(20)
        assert joined.member
        assert (joined.fence, joined.attempt, joined.starting_step) == (grant.fence, 2, grant.starting_step)
    assert queue(live, project) == []


def test_of_two_waiters_of_one_group_the_second_joins_the_first(
    live: LiveStore, project: str, coordinators: list[LeaseStore]
) -> None:
    ours = dataclasses.replace(HOLDER, group="g")
    stranger = live.acquire(project).fence
    first, second = [waits(live, coordinators[n], project, f"n{n}", holder=ours) for n in range(2)]
    live.release(project, stranger)
    assert (first.result(20).member, second.result(20).member) == (False, True)
    assert first.result(20).fence == second.result(20).fence
    assert queue(live, project) == []


# Callers that are gone


async def _cancelled_in_flight(leases: LeaseStore, one: Acquisition, retry: bool = False) -> Grant | None:
    """Make a call and lose its caller once the request is on its way; perhaps the caller has called again before."""
    call = asyncio.create_task(leases.acquire(one))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    again = asyncio.create_task(leases.acquire(one)) if retry else None
    await asyncio.sleep(0)
    assert not call.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    grant = await again if again else None
    await asyncio.gather(*leases._cleanups)
    return grant


def state(live: LiveStore, project: str) -> tuple[dict[str, str], dict[str, str]]:
    keys = run_keys(project, "r")
    record = live.raw.hgetall(keys.run)
    for name in ("fence", "ttl", "call", "nonce", "updated", "wrote", "runtime"):
        record.pop(name, None)
    return record, live.raw.hgetall(keys.attempts)


def test_a_run_that_nobody_was_told_of_is_gone(live: LiveStore, project: str) -> None:
    live.run(_cancelled_in_flight(live.leases, wish(project, "n1", config={"lr": "1"}, auto_keys=["k"])))
    keys = run_keys(project, "r")
    assert live.raw.hgetall(keys.auto) == {}
    assert live.raw.zscore(keys.partition.live, keys.path) is None
    assert live.raw.zscore(keys.runs, "r") is None
    with pytest.raises(RunNotFound):
        live.get(project)
    kinds = [entry["k"] for _, entry in live.raw.xrevrange(keys.partition.events, count=2)]
    assert kinds == ["given-back", "created"]
    # Whoever comes next, even with the same nonce, creates it.
    grant = live.run(live.leases.acquire(wish(project, "n1", mode="never")))
    assert (grant.attempt, grant.resumed) == (1, False)


@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_a_resume_that_nobody_was_told_of_leaves_nothing(live: LiveStore, project: str, outcome: str) -> None:
    first = live.acquire(project, config={"lr": "1", "old": "2"})
    live.run(live.metrics.open_writer(writer_of(project, first.fence)))
    live.run(live.metrics.append(writer_of(project, first.fence), points_entry(1, [(0, 1.0), (1, 2.0)])))
    live.release(project, first.fence, outcome)
    before = state(live, project)
    live.run(_cancelled_in_flight(live.leases, wish(project, "n2", config={"lr": "3", "new": "4"})))
    record, attempts = state(live, project)
    assert (record, attempts) == before
    again = live.run(live.leases.acquire(wish(project, "n2", mode="must")))
    assert (again.attempt, again.previous_state, again.next_step) == (2, RunState(outcome), 2)
    assert again.fence > first.fence


def test_a_fork_that_nobody_was_told_of_can_be_made_again(live: LiveStore, project: str) -> None:
    fence = live.acquire(project, "parent").fence
    writer = writer_of(project, fence, run_id="parent")
    live.run(live.metrics.open_writer(writer))
    live.run(live.metrics.append(writer, points_entry(1, [(0, 1.0), (1, 2.0)])))
    parent = run_keys(project, "parent").run
    fork = wish(project, "n1", mode="never", fork=Fork("parent", 1))
    live.run(_cancelled_in_flight(live.leases, fork))
    assert live.raw.hget(parent, "children") == "0"
    grant = live.run(live.leases.acquire(fork))
    assert (grant.starting_step, grant.run.parent.canonical_id if grant.run.parent else "") == (2, "parent")
    assert live.raw.hget(parent, "children") == "1"


def test_a_rewind_that_nobody_was_told_of_can_be_made_again(live: LiveStore, project: str) -> None:
    fence = live.acquire(project).fence
    writer = writer_of(project, fence)
    live.run(live.metrics.open_writer(writer))
    live.run(live.metrics.append(writer, points_entry(1, [(0, 1.0), (1, 2.0)])))
    live.release(project, fence)
    rewind = wish(project, "n1", mode="must", resume_step=1, rewinds=True)
    live.run(_cancelled_in_flight(live.leases, rewind))
    assert live.get(project).run.state is RunState.KILLED
    grant = live.run(live.leases.acquire(rewind))
    assert (grant.starting_step, grant.next_step) == (1, 1)


def test_a_grant_that_a_second_call_was_told_of_stays(live: LiveStore, project: str) -> None:
    # Given a caller that has called again, with its nonce, before the coordinator noticed that the first is gone.
    grant = live.run(_cancelled_in_flight(live.leases, wish(project, "n1"), retry=True))
    assert grant is not None
    run = live.get(project).run
    assert (run.state, run.fence, run.attempt) == (RunState.RUNNING, grant.fence, 1)
    live.release(project, grant.fence)


def test_a_grant_that_was_written_under_is_not_taken_back(live: LiveStore, project: str) -> None:
    for rewinds in (False, True):
        step = {"resume_step": 0, "rewinds": True} if rewinds else {}
        fence = live.acquire(project, **step).fence
        writer = writer_of(project, fence)
        live.run(live.metrics.open_writer(writer))
        live.run(live.metrics.append(writer, points_entry(1, [(0, 1.0)])))
        assert not live.run(live.leases.give_back(project, "r", fence))
        assert live.get(project).run.state is RunState.RUNNING
        live.release(project, fence)


def test_the_fence_of_a_grant_that_was_taken_back_is_good_for_nothing(live: LiveStore, project: str) -> None:
    live.release(project, live.acquire(project).fence)
    fence = live.acquire(project).fence
    assert live.run(live.leases.give_back(project, "r", fence))
    assert not live.run(live.leases.give_back(project, "r", fence))  # once
    for call in (live.leases.renew(project, "r", fence), live.metrics.open_writer(writer_of(project, fence))):
        with pytest.raises(Stale):
            live.run(call)
    assert live.get(project).run.state is RunState.FINISHED


def test_a_waiter_whose_caller_is_gone_leaves_the_queue(
    live: LiveStore, project: str, coordinators: list[LeaseStore]
) -> None:
    live.acquire(project)
    waiters = [waits(live, coordinators[0], project, f"n{number}") for number in range(3)]
    waiters[1].cancel()
    until(lambda: queue(live, project) == ["n0", "n2"])
    # But not one that waits with another call by now.
    again = waits(live, coordinators[1], project, "n2")
    until(lambda: len(live.raw.hgetall(run_keys(project, "r").waitx)) == 2)
    waiters[2].cancel()
    until(lambda: not coordinators[0]._cleanups)
    assert queue(live, project) == ["n0", "n2"]
    for waiter in (waiters[0], again):
        waiter.cancel()
    until(lambda: queue(live, project) == [])


# Automatic keys


def test_who_finds_a_key_bound_meanwhile_waits_for_that_run(
    live: LiveStore, project: str, coordinators: list[LeaseStore]
) -> None:
    """A key that changes hands while somebody waits takes the waiter along, and its place with it."""
    mine = wish(project, "n1", mode="auto", auto_keys=["k1", "k2"], auto_search=True)
    first = live.run(live.leases.acquire(wish(project, "h1", auto_keys=["k2"])))
    waiter = live.spawn(coordinators[0].acquire(dataclasses.replace(mine, id="own", canonical_id="own"), LONG))
    until(lambda: queue(live, project) == ["n1"])  # k2 leads to r
    other = live.acquire(project, "other", auto_keys=["k1"])
    live.release(project, first.fence, "failed")  # wakes it: k1 comes first, and leads elsewhere now
    until(lambda: live.raw.zrange(run_keys(project, "other").wait, 0, -1) == ["n1"])
    until(lambda: queue(live, project) == [])
    live.release(project, other.fence, "failed", "other")
    assert waiter.result(20).run.id == "other"


def test_keys_of_earlier_jobs_are_forgotten_with_the_run(live: LiveStore, project: str) -> None:
    # Given a run that its first job's key found, then the directory's, from a second job.
    live.release(project, live.acquire(project, auto_keys=["job-1", "directory"]).fence, "preempted")
    second = live.acquire(project, auto_keys=["job-2", "directory"]).fence
    live.release(project, second, "finished")
    assert live.raw.hgetall(run_keys(project, "r").auto) == {}
