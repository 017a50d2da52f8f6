"""The scripts of leases and runs, on real Valkey and on real Redis 7."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from runlease_coordinator.domain.errors import (
    LeaseHeld,
    RunDeleted,
    RunExists,
    RunIdCollision,
    RunNotFound,
    Stale,
    Unavailable,
    Unconfirmed,
)
from runlease_coordinator.domain.leases import Claim, Renewal
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.leases import LeaseStore
from runlease_coordinator.store.runs import ListPosition

from tests.support.stores import LiveStore, points_entry, writer_of

SHORT_US = 20_000


def record(live: LiveStore, project: str) -> dict[str, str]:
    return live.raw.hgetall(run_keys(project, "r").run)


def expired(live: LiveStore, project: str, ttl_us: int = SHORT_US) -> int:
    """Acquire and let the lease expire; returns its fence. Later renewals are long again."""
    fence = live.acquire(project, ttl_us=ttl_us).fence
    live.wait_past(int(record(live, project)["expiry"]))
    live.raw.hset(run_keys(project, "r").run, "ttl", "30000000")
    return fence


# Fences and nonces


@pytest.mark.parametrize("ahead_us", [0, 1, 3_600_000_000])
def test_fences_rise_though_the_clock_stands_or_falls_behind(live: LiveStore, project: str, ahead_us: int) -> None:
    # Given a last fence that is ahead of the store's clock, as after the clock was set back.
    first = live.acquire(project)
    last = max(first.fence, live.now_us() + 1_000_000 + ahead_us)
    live.raw.hset(run_keys(project, "r").run, mapping={"fence": last, "end": "finished", "expiry": 0, "avail": 0})
    fences = [last]
    for _ in range(3):
        fences.append(live.acquire(project).fence)
        live.release(project, fences[-1])
    assert fences == [last, last + 1, last + 2, last + 3]


def test_fences_come_from_the_stores_clock(live: LiveStore, project: str) -> None:
    before = live.now_us()
    assert before <= live.acquire(project).fence <= live.now_us()


def test_a_retry_gets_the_same_grant_and_extends_nothing(live: LiveStore, project: str) -> None:
    first = live.acquire(project, nonce="n1", config={"lr": "1"}, tags=["a"])
    before = live.dump(project)
    live.wait_past(first.fence + 2_000)
    again = live.acquire(project, nonce="n1", config={"lr": "1"}, tags=["a"])
    after, run_key = live.dump(project), run_keys(project, "r").run
    assert after[run_key].pop("call") != before[run_key].pop("call")  # which call was answered last
    assert after == before
    assert (again.fence, again.attempt, again.starting_step) == (first.fence, 1, first.starting_step)
    assert again.resumed is first.resumed is False
    assert again.previous_state is None
    assert again.remaining_us < first.remaining_us


def test_a_retry_of_a_resume_is_one_too(live: LiveStore, project: str) -> None:
    live.release(project, live.acquire(project).fence, "failed")
    first = live.acquire(project, "r", "must", nonce="n2", resume_step=7)
    again = live.acquire(project, "r", "must", nonce="n2", resume_step=7)
    assert (again.fence, again.resumed, again.previous_state, again.starting_step, again.next_step) == (
        first.fence,
        True,
        RunState.FAILED,
        7,
        first.next_step,
    )


@pytest.mark.parametrize("how", ["released", "expired", "swept", "superseded"])
def test_the_nonce_of_an_ended_attempt_gets_nothing(live: LiveStore, project: str, how: str) -> None:
    short = how in ("expired", "swept")
    fence = live.acquire(project, nonce="n1", ttl_us=SHORT_US if short else 30_000_000).fence
    if short:
        live.wait_past(int(record(live, project)["expiry"]))
    else:
        live.release(project, fence)
    if how == "swept":
        live.run(live.sweeper.sweep())
    if how == "superseded":
        live.acquire(project, nonce="n2")
    before = live.dump(project)
    with pytest.raises(Stale) as caught:
        live.acquire(project, nonce="n1")
    assert caught.value.reason == "NONCE_ENDED"
    assert live.dump(project) == before


# What changes nothing


def _delete(live: LiveStore, project: str, fence: int) -> Any:
    return live.runs.delete_run(project, "r", "r", fence, "")


def _update(live: LiveStore, project: str, fence: int) -> Any:
    return live.runs.update_run(
        project, "r", fence, name="n", notes="n", tags=["t"], config={"a": "1"}, summary={"b": "2"}
    )


def _open(live: LiveStore, project: str, fence: int) -> Any:
    return live.metrics.open_writer(writer_of(project, fence))


def _append(live: LiveStore, project: str, fence: int) -> Any:
    return live.metrics.append(writer_of(project, fence), points_entry(1, [(0, 1.0)]))


FENCED: dict[str, Callable[[LiveStore, str, int], Any]] = {
    "renew": lambda live, project, fence: live.leases.renew(project, "r", fence),
    "release": lambda live, project, fence: live.leases.release(project, "r", fence, RunState.FINISHED),
    "delete": _delete,
    "update": _update,
    "open": _open,
    "append": _append,
}


@pytest.mark.parametrize("operation", FENCED)
@pytest.mark.parametrize("successor", ["live", "released"])
def test_an_old_fence_changes_nothing(live: LiveStore, project: str, operation: str, successor: str) -> None:
    old = expired(live, project)
    live.run(live.metrics.open_writer(writer_of(project, old)))
    new = live.acquire(project).fence
    if successor == "released":
        live.release(project, new)
    before = live.dump(project)
    with pytest.raises(Stale) as caught:
        live.run(FENCED[operation](live, project, old))
    assert caught.value.reason == "STALE_FENCE"
    assert caught.value.run is not None
    assert caught.value.run.fence == new
    assert live.dump(project) == before


@pytest.mark.parametrize("operation", FENCED)
def test_a_fence_that_never_was_changes_nothing(live: LiveStore, project: str, operation: str) -> None:
    fence = live.acquire(project).fence
    before = live.dump(project)
    with pytest.raises(Stale):
        live.run(FENCED[operation](live, project, fence + 1))
    assert live.dump(project) == before


@pytest.mark.parametrize("operation", FENCED)
def test_a_run_that_is_not_there_is_not_made(live: LiveStore, project: str, operation: str) -> None:
    before = live.dump(project)
    with pytest.raises((Stale, RunNotFound)):
        live.run(FENCED[operation](live, project, live.now_us()))
    assert live.dump(project) == before


@pytest.mark.parametrize("operation", [name for name in FENCED if name != "delete"])
def test_a_deleted_run_stays_as_it_is(live: LiveStore, project: str, operation: str) -> None:
    fence = expired(live, project)
    live.run(_delete(live, project, fence))
    before = live.dump(project)
    with pytest.raises(RunDeleted):
        live.run(FENCED[operation](live, project, fence))
    live.run(_delete(live, project, fence))  # idempotent
    for mode in ("never", "allow", "must", "auto"):
        with pytest.raises(RunDeleted):
            live.acquire(project, "r", mode)
    assert live.dump(project) == before


def test_a_held_run_is_not_deleted(live: LiveStore, project: str) -> None:
    fence = live.acquire(project).fence
    before = live.dump(project)
    with pytest.raises(LeaseHeld):
        live.run(_delete(live, project, fence))
    assert live.dump(project) == before


def test_another_spelling_is_refused_by_every_mode(live: LiveStore, project: str) -> None:
    live.release(project, live.acquire(project, "a_b").fence, run_id="a_b")
    before = live.dump(project, "a_b")
    for mode in ("never", "allow", "must", "auto"):
        with pytest.raises(RunIdCollision) as caught:
            live.acquire(project, "a/b", mode)
        assert caught.value.existing_id == "a_b"
    assert live.dump(project, "a_b") == before
    assert live.acquire(project, "a-b").run.id == "a_b"


# Release


@pytest.mark.parametrize("outcome", ["finished", "failed", "crashed", "preempted", "killed"])
@pytest.mark.parametrize("successor", [False, True])
def test_a_repeated_release_answers_what_is_recorded(
    live: LiveStore, project: str, outcome: str, successor: bool
) -> None:
    fence = live.acquire(project).fence
    assert live.release(project, fence, outcome) == outcome
    if successor:
        live.acquire(project)
    before = live.dump(project)
    for repeated in (outcome, "finished", "killed"):
        assert live.release(project, fence, repeated) == outcome
    assert live.dump(project) == before


def test_a_late_release_of_a_swept_run_corrects_its_end(live: LiveStore, project: str) -> None:
    fence = expired(live, project)
    live.run(live.sweeper.sweep())
    assert live.get(project).run.state is RunState.CRASHED
    assert live.release(project, fence, "preempted") == "preempted"
    run = live.get(project).run
    assert (run.state, run.attempts[0].outcome, run.lock_delay_us) == (RunState.PREEMPTED, RunState.PREEMPTED, 0)
    with pytest.raises(Stale) as caught:
        live.run(live.leases.renew(project, "r", fence))
    assert caught.value.reason == "LEASE_ENDED"


# Expiry and reinstatement


@pytest.mark.parametrize("swept", [False, True])
def test_a_holder_that_comes_back_has_its_lease_again(live: LiveStore, project: str, swept: bool) -> None:
    fence = expired(live, project)
    assert live.get(project).run.state is RunState.CRASHED
    if swept:
        assert live.run(live.sweeper.sweep()) == 1
        assert record(live, project)["end"] == "crashed"
    renewal = live.run(live.leases.renew(project, "r", fence))
    assert renewal.reinstated
    run = live.get(project).run
    assert (run.state, run.fence, run.attempt) == (RunState.RUNNING, fence, 1)
    assert (run.attempts[0].outcome, run.attempts[0].ended_us) == (RunState.RUNNING, 0)
    assert not live.run(live.leases.renew(project, "r", fence)).reinstated
    # Its time counts once: from the grant to the end, whatever lay between.
    live.release(project, fence)
    run = live.get(project).run
    assert run.runtime_us == run.attempts[0].ended_us - run.attempts[0].granted_us


def test_each_attempt_adds_its_time_once(live: LiveStore, project: str) -> None:
    for end in ("expired", "released", "swept"):
        fence = expired(live, project)
        if end == "swept":
            live.run(live.sweeper.sweep())
        if end == "released":
            live.release(project, fence)
    live.release(project, live.acquire(project).fence)
    run = live.get(project).run
    assert [attempt.outcome.value for attempt in run.attempts] == ["crashed", "finished", "crashed", "finished"]
    assert run.runtime_us == sum(attempt.ended_us - attempt.granted_us for attempt in run.attempts)


def test_no_reinstatement_once_somebody_else_was_granted(live: LiveStore, project: str) -> None:
    old = expired(live, project)
    new = live.acquire(project)
    assert new.previous_state is RunState.CRASHED
    with pytest.raises(Stale) as caught:
        live.run(live.leases.renew(project, "r", old))
    assert caught.value.reason == "STALE_FENCE"
    assert live.get(project).run.fence == new.fence


def test_a_sweep_leaves_the_living_alone(live: LiveStore, project: str) -> None:
    live.acquire(project)
    before = live.dump(project)
    live.run(live.sweeper.sweep())
    assert live.dump(project) == before


def test_a_sweep_does_not_believe_its_list(live: LiveStore, project: str) -> None:
    # Given a renewal between the look at the list and the script.
    live.acquire(project)
    keys = run_keys(project, "r")
    live.raw.zadd(keys.partition.live, {f"{project}/r": 1})
    assert live.run(live.sweeper.sweep()) == 0
    assert live.get(project).run.state is RunState.RUNNING
    assert live.raw.zscore(keys.partition.live, f"{project}/r") == float(record(live, project)["expiry"])


def test_lock_delay_keeps_others_out_after_an_unclean_end_only(live: LiveStore, project: str) -> None:
    delayed = LeaseStore(live.store, live.wakeups, 200_000)
    live.acquire(project, ttl_us=SHORT_US, leases=delayed)
    live.wait_past(int(record(live, project)["expiry"]))
    with pytest.raises(LeaseHeld) as caught:
        live.acquire(project, leases=delayed)
    assert (caught.value.reason, caught.value.run.state) == ("LOCK_DELAY", RunState.CRASHED)
    assert 0 < caught.value.retry_after_us <= 200_000
    with pytest.raises(RunExists):
        live.acquire(project, "r", "never", leases=delayed)
    live.wait_past(int(record(live, project)["avail"]))
    fence = live.acquire(project, leases=delayed).fence
    live.release(project, fence)
    assert live.acquire(project, leases=delayed).attempt == 3


# The gate


def test_a_flushed_script_cache_is_filled_again(live: LiveStore, project: str) -> None:
    live.raw.script_flush()
    fence = live.acquire(project).fence
    live.raw.script_flush()
    live.run(live.metrics.open_writer(writer_of(project, fence)))
    live.raw.script_flush()
    live.run(live.metrics.append(writer_of(project, fence), points_entry(1, [(0, 1.0)])))
    assert live.get(project).run.points == 1


def confirm(live: LiveStore, project: str, fence: int) -> Renewal:
    """Renew as a holder does that is still HELD: told of the new incarnation, it claims under that."""
    with pytest.raises(Unconfirmed) as caught:
        live.run(live.leases.renew(project, "r", fence, Claim("0")))
    return live.run(live.leases.renew(project, "r", fence, Claim(caught.value.incarnation)))


@pytest.fixture
def failed_over(live: LiveStore) -> Iterator[Callable[[str, int], None]]:
    """Make a partition believe that its store failed over."""
    touched: list[str] = []

    def fail_over(project: str, quarantine_us: int) -> None:
        touched.append(live.meta(project))
        live.raw.hset(touched[-1], mapping={"incarnation": "0" * 40, "quarantine_us": quarantine_us})

    yield fail_over
    for meta in touched:
        live.raw.hset(meta, mapping={"quarantine_until_us": 0, "quarantine_us": 0})


def test_quarantine(live: LiveStore, project: str, failed_over: Callable[[str, int], None]) -> None:
    fence = live.acquire(project, nonce="n1").fence
    live.release(project, live.acquire(project, "gone").fence, run_id="gone")
    live.run(live.runs.delete_run(project, "gone", "gone", live.get(project, "gone").run.fence, ""))
    failed_over(project, 300_000)
    for mode in ("never", "allow", "must", "auto"):
        for run_id in ("r", "absent"):
            with pytest.raises(Unavailable) as caught:
                live.acquire(project, run_id, mode)
            assert caught.value.reason == "QUARANTINE"
            assert 0 < caught.value.retry_after_ms <= 301
        with pytest.raises(RunDeleted):  # the row above quarantine
            live.acquire(project, "gone", mode)
    assert confirm(live, project, fence).remaining_us > 0
    with pytest.raises(Unavailable) as caught:  # what names its nonce may have been rolled back
        live.acquire(project, nonce="n1")
    assert caught.value.reason == "QUARANTINE"
    assert 0 < caught.value.retry_after_ms <= 301
    live.wait_past(int(live.raw.hget(live.meta(project), "quarantine_until_us") or 0))
    assert live.acquire(project, nonce="n1").fence == fence
    assert live.acquire(project, "absent").attempt == 1


def test_nothing_is_swept_in_quarantine(live: LiveStore, project: str, failed_over: Callable[[str, int], None]) -> None:
    fence = expired(live, project)
    failed_over(project, 60_000_000)
    assert live.run(live.sweeper.sweep()) == 0
    assert record(live, project)["end"] == ""
    assert confirm(live, project, fence).reinstated


READS: dict[str, Callable[[LiveStore, str, int], Any]] = {
    "get": lambda live, project, _: live.runs.get_run(project, "r", "r"),
    "list": lambda live, project, _: live.runs.list_runs(project, frozenset(), frozenset(), 9, ListPosition()),
}


@pytest.mark.parametrize("operation", FENCED | READS)
def test_every_script_notices_the_change(
    live: LiveStore, project: str, operation: str, failed_over: Callable[[str, int], None]
) -> None:
    fence = live.acquire(project).fence
    live.run(live.metrics.open_writer(writer_of(project, fence)))
    failed_over(project, 60_000_000)
    # A refusal is as good here: what counts is that the look at the partition was taken.
    try:
        live.run((FENCED | READS)[operation](live, project, fence))
    except Unconfirmed:
        assert operation in FENCED
    meta = live.raw.hgetall(live.meta(project))
    assert int(meta["quarantine_until_us"]) > live.now_us()
    assert meta["incarnation"] == live.raw.info("replication")["master_replid"]


@pytest.mark.parametrize("operation", FENCED | READS)
def test_a_partition_without_meta_decides_nothing(live: LiveStore, project: str, operation: str) -> None:
    fence = live.acquire(project).fence
    meta = live.raw.hgetall(live.meta(project))
    live.raw.delete(live.meta(project))
    before = live.dump(project)
    try:
        with pytest.raises(Unavailable) as caught:
            live.run((FENCED | READS)[operation](live, project, fence))
        assert caught.value.reason == "UNBOOTSTRAPPED"
        with pytest.raises(Unavailable):
            live.acquire(project, "new")
        live.run(live.sweeper.sweep())
        assert live.dump(project) == before
    finally:
        live.raw.hset(live.meta(project), mapping=meta)


def test_a_request_that_waited_too_long_is_not_decided(live: LiveStore, project: str) -> None:
    live.acquire(project, "other")
    before = live.dump(project)
    live.store.clock_of(project).seen_us -= 60_000_000
    with pytest.raises(Unavailable) as caught:
        live.acquire(project)
    assert caught.value.reason == "REQUEST_TOO_OLD"
    assert live.dump(project) == before
    assert live.acquire(project).attempt == 1  # the refusal told the time
