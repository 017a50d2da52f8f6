"""What a store may still decide when it has lost data (tests/model/README.md), on real Valkey and on real Redis 7."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from runlease_coordinator.domain.errors import LeaseHeld, RunNotFound, Stale, Unavailable, Unconfirmed
from runlease_coordinator.domain.leases import Claim, Grant
from runlease_coordinator.domain.metrics import Entry
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.metrics import Appended
from runlease_coordinator.store.sweeper import Sweeper

from tests.support.losses import Losses
from tests.support.stores import LiveStore, commit_entry, points_entry, writer_of


def append(live: LiveStore, project: str, fence: int, entry: Entry, session: str = "s1") -> Any:
    writer = writer_of(project, fence, session=session)
    live.run(live.metrics.open_writer(writer))
    return live.run(live.metrics.append(writer, entry))


def events(live: LiveStore, project: str) -> list[str]:
    entries = live.raw.xrange(run_keys(project, "r").partition.events)
    return [fields["k"] for _, fields in entries if fields["p"] == project]


# Holders


def test_a_claim_counts_only_if_it_was_made_after_the_loss(live: LiveStore, project: str, losses: Losses) -> None:
    grant = live.acquire(project)
    losses.fail_over()
    for claim in (None, Claim(""), Claim(grant.incarnation)):  # not HELD; of before the loss
        with pytest.raises(Unconfirmed) as caught:
            losses.renew(grant.fence, claim)
    assert int(caught.value.incarnation) > int(grant.incarnation)
    renewed = losses.renew(grant.fence, Claim(caught.value.incarnation))
    assert renewed.incarnation == caught.value.incarnation
    assert losses.renew(grant.fence, Claim(renewed.incarnation)).remaining_us > 0
    losses.end_quarantine()
    assert losses.renew(grant.fence).remaining_us > 0  # confirmed: as ever


def test_who_is_not_held_gets_the_lease_back_behind_the_quarantine_under_a_new_fence(
    live: LiveStore, project: str, losses: Losses
) -> None:
    granted = live.acquire(project)
    append(live, project, granted.fence, points_entry(1, [(0, 1.0)]))
    losses.fail_over()
    for _ in range(2):
        with pytest.raises(Unconfirmed):
            losses.renew(granted.fence)
    losses.end_quarantine()
    renewed = losses.renew(granted.fence)
    assert renewed.reinstated
    assert renewed.fence > granted.fence
    # What the holder knew it by goes on to mean it: the answer may be lost, its members and streams have that fence.
    assert losses.renew(granted.fence).fence == losses.renew(renewed.fence).fence == renewed.fence
    assert append(live, project, granted.fence, points_entry(2, [(1, 1.0)])) == Appended(2)
    assert append(live, project, renewed.fence, points_entry(3, [(2, 1.0)]), session="s2") == Appended(3)
    run = live.get(project).run
    assert (run.fence, run.state, run.next_step) == (renewed.fence, RunState.RUNNING, 3)
    assert [(attempt.fence, attempt.points) for attempt in run.attempts] == [(granted.fence, 3)]
    (series,) = live.read(project)
    assert list(series.steps) == [0, 1, 2]
    # Again, and swept this time.
    losses.fail_over()
    losses.told(granted.fence)
    losses.end_quarantine()
    keys = run_keys(project, "r")
    live.raw.hset(keys.run, mapping={"expiry": 1, "avail": 2})
    live.raw.zadd(keys.partition.live, {f"{project}/r": 1})
    live.run(Sweeper(live.store).sweep())
    assert live.get(project).run.state == RunState.CRASHED
    again = losses.renew(granted.fence)
    assert again.fence > renewed.fence
    for fence in (granted.fence, renewed.fence, again.fence):
        assert losses.renew(fence).fence == again.fence
    assert events(live, project)[-2:] == ["expired", "reinstated"]
    assert live.run(live.leases.release(project, "r", renewed.fence, RunState.FINISHED)) == RunState.FINISHED
    with pytest.raises(Stale) as caught:
        losses.renew(granted.fence)
    assert caught.value.reason == "LEASE_ENDED"


def test_a_forced_break_that_is_lost_leaves_its_holder_until_the_newer_one_renews(
    live: LiveStore, project: str, losses: Losses
) -> None:
    first = live.acquire(project, nonce="n1")
    losses.keep()
    live.run(live.leases.break_lease(project, "r", first.fence, force=True, reason="why", by="who"))
    second = live.acquire(project, nonce="n2")
    losses.lose()
    losses.confirm(first, "n1")
    assert append(live, project, first.fence, points_entry(1, [(0, 1.0)])) == Appended(1)
    losses.confirm(second, "n2")
    with pytest.raises(Stale):
        losses.renew(first.fence)
    with pytest.raises(Stale):
        append(live, project, first.fence, points_entry(2, [(1, 1.0)]))


def test_an_earlier_fence_counts_from_the_attempts_own_on(live: LiveStore, project: str, losses: Losses) -> None:
    first = live.acquire(project).fence
    losses.fail_over()
    losses.told(first)
    losses.end_quarantine()
    losses.renew(first)
    # Of another attempt that had the number where the data went another way.
    live.raw.hset(run_keys(project, "r").attempts, f"fence.{first - 1}", "1")
    with pytest.raises(Stale):
        losses.renew(first - 1)
    with pytest.raises(Stale):
        append(live, project, first - 1, points_entry(1, [(0, 1.0)]))


def test_no_lease_comes_back_under_a_new_fence_while_the_clock_is_not_believed(
    live: LiveStore, project: str, losses: Losses
) -> None:
    fence = live.acquire(project).fence
    losses.fail_over()
    losses.told(fence)
    put_clock_on(losses, 5.0)
    losses.end_quarantine()
    with pytest.raises(Unavailable) as caught:
        losses.renew(fence)
    assert caught.value.reason == "QUARANTINE"
    assert live.get(project).run.fence == fence


def test_who_comes_behind_the_quarantine_finds_what_was_granted_meanwhile(
    live: LiveStore, project: str, losses: Losses
) -> None:
    fence = live.acquire(project).fence
    losses.fail_over()
    losses.told(fence)
    losses.end_quarantine()
    assert live.acquire(project).attempt == 2
    with pytest.raises(Stale) as caught:
        losses.renew(fence)
    assert caught.value.reason == "STALE_FENCE"


def test_a_claim_under_a_fence_whose_reinstatement_was_lost_brings_that_back(
    live: LiveStore, project: str, losses: Losses
) -> None:
    granted = live.acquire(project, nonce="n")
    append(live, project, granted.fence, points_entry(1, [(0, 1.0)]))
    losses.keep()
    losses.fail_over()
    losses.told(granted.fence)
    losses.end_quarantine()
    reinstated = losses.renew(granted.fence)
    losses.lose()
    assert losses.confirm(replace(granted, fence=reinstated.fence)).fence == reinstated.fence
    assert append(live, project, granted.fence, points_entry(2, [(1, 1.0)])) == Appended(2)
    run = live.get(project).run
    assert (run.fence, run.attempt, run.next_step, run.points) == (reinstated.fence, 1, 2, 2)
    assert [(attempt.fence, attempt.points) for attempt in run.attempts] == [(granted.fence, 2)]


@pytest.mark.parametrize("force", [False, True])
def test_a_break_ends_what_was_reinstated_by_all_its_fences(
    force: bool, live: LiveStore, project: str, losses: Losses
) -> None:
    first = live.acquire(project).fence
    losses.fail_over()
    losses.told(first)
    losses.end_quarantine()
    second = losses.renew(first).fence
    live.run(live.leases.break_lease(project, "r", second, force=force, reason="why", by="who"))
    for fence in (first, second):
        with pytest.raises(Stale) as caught:
            losses.renew(fence)
        assert caught.value.reason == ("STALE_FENCE" if force else "REVOKED")
        if force:
            with pytest.raises(Stale):
                append(live, project, fence, points_entry(1, [(0, 1.0)]))
    if force:
        third = live.acquire(project)
        assert third.attempt == 2
        with pytest.raises(Stale):
            losses.renew(second)


def test_an_unconfirmed_record_is_free_behind_the_quarantine_whatever_its_expiry_says(
    live: LiveStore, project: str, losses: Losses
) -> None:
    first = live.acquire(project)
    losses.fail_over()
    losses.told(first.fence)
    losses.end_quarantine()
    second = live.acquire(project)
    assert (second.attempt, second.previous_state) == (2, RunState.CRASHED)
    assert second.fence > first.fence
    ended = live.get(project).run.attempts[0]
    assert (ended.outcome, ended.granted_us <= ended.ended_us <= live.now_us()) == (RunState.CRASHED, True)


def test_a_nonce_does_not_get_its_grant_from_an_unconfirmed_record(
    live: LiveStore, project: str, losses: Losses
) -> None:
    fence = live.acquire(project, nonce="n1").fence
    losses.fail_over()
    losses.told(fence)
    losses.end_quarantine()
    with pytest.raises(Stale) as caught:
        live.acquire(project, nonce="n1")
    assert caught.value.reason == "NONCE_ENDED"


# Data that are lost


@pytest.mark.parametrize("kept", ["nothing", "the attempt before"])
def test_a_holder_brings_back_what_the_store_has_lost(live: LiveStore, project: str, losses: Losses, kept: str) -> None:
    if kept != "nothing":
        live.release(project, live.acquire(project).fence, "failed")
    losses.keep()
    grant = live.acquire(project, nonce="n1", config={"a": "1"})
    append(live, project, grant.fence, points_entry(1, [(0, 1.0)]))
    losses.lose()

    assert losses.confirm(grant, "n1").reinstated
    # It goes on under its fence, and sends again what was acknowledged
    assert append(live, project, grant.fence, points_entry(1, [(0, 1.0)])) == Appended(1)
    assert append(live, project, grant.fence, commit_entry(2, 0, grant.fence), session="s1") == Appended(2)
    losses.end_quarantine()
    run = live.get(project).run
    assert (run.fence, run.attempt, run.state, run.points) == (grant.fence, grant.attempt, RunState.RUNNING, 1)
    assert (run.id, dict(run.config), run.next_step) == ("r", {"a": "1"}, 1)
    assert [attempt.attempt for attempt in run.attempts] == list(range(1, grant.attempt + 1))
    assert [checkpoint.step for checkpoint in run.checkpoints] == [0]
    assert events(live, project)[-1] == "rebuilt"
    # and is known by its nonce, held, and released as if nothing had been.
    with pytest.raises(LeaseHeld):
        live.acquire(project)
    assert live.release(project, grant.fence) == "finished"
    assert live.acquire(project).attempt == grant.attempt + 1


def test_a_grant_is_brought_back_by_who_says_what_it_was_only(live: LiveStore, project: str, losses: Losses) -> None:
    losses.keep()
    grant = live.acquire(project)
    losses.lose()
    incarnation = losses.told(grant.fence)
    before = live.dump(project)
    with pytest.raises(Unconfirmed):
        losses.renew(grant.fence, Claim(incarnation))
    assert live.dump(project) == before
    losses.end_quarantine()
    with pytest.raises(Unconfirmed):  # behind the quarantine it stays suspended, though the run is gone
        losses.confirm(grant)
    assert live.dump(project) == before


def test_a_superseded_holder_changes_nothing_though_its_successor_is_lost(
    live: LiveStore, project: str, losses: Losses
) -> None:
    old = live.acquire(project, ttl_us=20_000)
    append(live, project, old.fence, points_entry(1, [(0, 1.0)]))
    live.wait_past(old.fence + 20_000)
    losses.keep()
    new = live.acquire(project)
    losses.lose()
    losses.told(old.fence)
    before = live.dump(project)
    for call in (
        live.leases.renew(project, "r", old.fence),
        live.metrics.append(writer_of(project, old.fence), points_entry(2, [(1, 1.0)])),
        live.leases.release(project, "r", old.fence, RunState.FINISHED),
    ):
        with pytest.raises(Unconfirmed):
            live.run(call)
    assert live.dump(project) == before
    losses.confirm(new)
    with pytest.raises(Stale):
        losses.renew(old.fence)
    assert live.get(project).run.fence == new.fence


def test_a_number_that_was_given_back_and_granted_again_is_that_of_the_newer_grant(
    live: LiveStore, project: str, losses: Losses
) -> None:
    live.release(project, live.acquire(project).fence)
    first = live.acquire(project)
    losses.keep()
    assert live.run(live.leases.give_back(project, "r", first.fence))
    second = live.acquire(project, nonce="n1")
    assert second.attempt == first.attempt
    losses.lose()
    losses.confirm(second, "n1")
    run = live.get(project).run
    assert [(one.attempt, one.fence, one.ended_us) for one in run.attempts][1:] == [(2, second.fence, 0)]
    with pytest.raises(Stale):
        live.run(live.metrics.open_writer(writer_of(project, first.fence)))


# Everything else that names a fence

OPERATIONS: dict[str, Callable[[LiveStore, str, Grant], Any]] = {
    "append": lambda live, project, grant: live.metrics.append(
        writer_of(project, grant.fence), points_entry(1, [(0, 1.0)])
    ),
    "open": lambda live, project, grant: live.metrics.open_writer(writer_of(project, grant.fence)),
    "update": lambda live, project, grant: live.runs.update_run(
        project, "r", grant.fence, name="n", notes=None, tags=None, config={}, summary={}
    ),
    "break": lambda live, project, grant: live.leases.break_lease(
        project, "r", grant.fence, force=True, reason="why", by="ada"
    ),
    "revoke": lambda live, project, grant: live.leases.break_lease(
        project, "r", grant.fence, force=False, reason="why", by="ada"
    ),
    "delete": lambda live, project, grant: live.runs.delete_run(project, "r", "r", grant.fence, "why"),
    "release": lambda live, project, grant: live.leases.release(project, "r", grant.fence, RunState.FINISHED),
}


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_fence_is_good_for_nothing_before_its_lease_is_confirmed(
    live: LiveStore, project: str, losses: Losses, operation: str, lost: bool
) -> None:
    losses.keep()
    grant = live.acquire(project)
    live.run(live.metrics.open_writer(writer_of(project, grant.fence)))
    (losses.lose if lost else losses.fail_over)()
    losses.told(grant.fence)
    before = live.dump(project)
    operators = lost and operation in ("break", "revoke", "delete")
    with pytest.raises(RunNotFound if operators else Unconfirmed):
        live.run(OPERATIONS[operation](live, project, grant))
    assert live.dump(project) == before
    losses.confirm(grant)
    if operation == "delete":
        return  # of a held run
    if operation == "append":
        live.run(live.metrics.open_writer(writer_of(project, grant.fence)))
    live.run(OPERATIONS[operation](live, project, grant))


def test_what_was_not_delivered_is_not_taken_back_from_an_unconfirmed_record(
    live: LiveStore, project: str, losses: Losses
) -> None:
    keys = run_keys(project, "r")
    fence = live.acquire(project, nonce="n1").fence
    losses.fail_over()
    losses.told(fence)
    before = live.dump(project)
    assert not live.run(live.leases.abandon(keys, keys, nonce="n1"))
    assert live.dump(project) == before


def test_an_operator_is_told_that_nobody_holds_an_unconfirmed_run_behind_the_quarantine(
    live: LiveStore, project: str, losses: Losses
) -> None:
    fence = live.acquire(project).fence
    losses.fail_over()
    losses.told(fence)
    losses.end_quarantine()
    with pytest.raises(Stale) as caught:
        live.run(live.leases.break_lease(project, "r", fence, force=True, reason="why", by="ada"))
    assert caught.value.reason == "LEASE_FREE"
    live.run(live.runs.delete_run(project, "r", "r", fence, "why"))
    assert live.get(project).run.state is RunState.DELETED


# The gate


def test_a_primary_without_its_replicas_decides_nothing_and_opens_no_quarantine(
    live: LiveStore, project: str, losses: Losses
) -> None:
    fence = live.acquire(project).fence
    losses.fail_over()
    live.raw.hset(losses.meta, "replicas", 1)
    before = live.raw.hgetall(losses.meta), live.dump(project)
    try:
        for call in (lambda: live.acquire(project), lambda: losses.renew(fence), lambda: live.get(project)):
            with pytest.raises(Unavailable) as caught:
                call()
            assert caught.value.reason == "NOREPLICAS"
        assert (live.raw.hgetall(losses.meta), live.dump(project)) == before
    finally:
        live.raw.hset(losses.meta, "replicas", 0)


def test_a_store_that_loses_nothing_is_never_in_quarantine(live: LiveStore, project: str, losses: Losses) -> None:
    grant = live.acquire(project)
    losses.fail_over(quarantine_us=0)
    renewed = losses.renew(grant.fence)
    assert renewed.incarnation == grant.incarnation
    assert live.raw.hget(losses.meta, "incarnation") != "0" * 40
    assert live.acquire(project, "another").attempt == 1


def test_an_epoch_rises_though_the_clock_is_behind(live: LiveStore, project: str, losses: Losses) -> None:
    ahead = live.now_us() + 3_600_000_000
    live.raw.hset(losses.meta, "epoch", ahead)
    fence = live.acquire(project).fence
    seen = [int(live.raw.hget(losses.meta, "epoch") or 0)]
    for _ in range(3):
        losses.fail_over()
        seen.append(int(losses.told(fence)))
    live.raw.hset(losses.meta, "epoch", live.now_us())
    assert seen == sorted(set(seen))


# The store's clock


def put_clock_on(losses: Losses, by_s: float) -> None:
    """Let the store's clock be that far ahead of what the coordinator has seen of it until now."""
    guard = losses.guard
    guard._lowest = deque((at, offset - int(by_s * 1e6)) for at, offset in guard._lowest)


def test_a_clock_that_was_put_on_grants_nothing_and_starts_a_quarantine(
    live: LiveStore, project: str, losses: Losses
) -> None:
    grant = live.acquire(project, ttl_us=20_000)
    live.wait_past(grant.fence + 20_000)
    put_clock_on(losses, 5.0)
    before = live.dump(project)
    with pytest.raises(Unavailable) as caught:
        live.acquire(project)
    assert caught.value.reason == "QUARANTINE"
    assert 62_000 < caught.value.retry_after_ms < 64_000  # the longest ttl, 60 s, and what clocks may differ by
    assert live.dump(project) == before
    # No data were lost: the holder claims under the incarnation that it knows, and its log goes on meanwhile.
    assert append(live, project, grant.fence, points_entry(1, [(0, 1.0)])) == Appended(1)
    with pytest.raises(Unconfirmed):
        losses.renew(grant.fence)
    assert losses.renew(grant.fence, Claim(grant.incarnation)).reinstated
    # Once open it is not made longer, and another coordinator's start does not end it.
    live.run(live.store.bootstrap("embedded", max_ttl_us=60_000_000, replicas=None))
    with pytest.raises(Unavailable) as caught:
        live.acquire(project, "another")
    assert caught.value.retry_after_ms < 64_000


def test_a_clock_is_watched_for_as_long_as_the_longest_lease(live: LiveStore, losses: Losses) -> None:
    assert losses.guard.window_s == 60.0
    live.run(live.store.bootstrap("embedded", max_ttl_us=90_000_000, replicas=None))
    try:
        assert losses.guard.window_s == 90.0
    finally:
        live.run(live.store.bootstrap("embedded", max_ttl_us=60_000_000, replicas=None))


def test_a_clock_that_was_put_on_closes_a_store_for_the_leases_of_before_it_was_lowered(
    live: LiveStore, project: str, losses: Losses
) -> None:
    live.acquire(project)
    live.raw.hset(losses.meta, "quarantine_us", 300_000_000)  # as of leases of 292 s, where 60 s are the longest now
    put_clock_on(losses, 5.0)
    with pytest.raises(Unavailable) as caught:
        live.acquire(project, "another")
    assert 299_000 < caught.value.retry_after_ms < 301_000


def test_a_request_that_was_slow_is_decided_with_a_fresh_look_at_the_clock(
    live: LiveStore, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([1])
    believable = live.store.believable_us
    monkeypatch.setattr(live.store, "believable_us", lambda meta: next(looks, None) or believable(meta))
    assert live.acquire(project).attempt == 1


def test_requests_that_are_always_slow_are_not_decided(
    live: LiveStore, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count()
    believable = live.store.believable_us
    monkeypatch.setattr(live.store, "believable_us", lambda meta: believable(meta) if next(looks) % 2 else 1)
    before = live.dump(project)
    with pytest.raises(Unavailable) as caught:
        live.acquire(project)
    assert caught.value.reason == "CLOCK"
    assert live.dump(project) == before
