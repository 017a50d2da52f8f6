"""Rules of the lease that the model needs (tests/model/README.md), on real Valkey and on real Redis 7."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runlease_coordinator.store.keys import run_keys

from tests.support.stores import HOLDER, TTL_US, LiveStore

# The store's clock steps back: `remaining_within_ttl`


def step_back(live: LiveStore, project: str) -> None:
    """Leave a lease as after a step back of the store's clock: its expiry is further away than its ttl."""
    ahead = live.now_us() + 10 * TTL_US
    live.raw.hset(run_keys(project, "r").run, mapping={"expiry": ahead, "avail": ahead})


def test_a_retry_never_gets_more_than_the_ttl(live: LiveStore, project: str) -> None:
    first = live.acquire(project, nonce="n1")
    step_back(live, project)
    again = live.acquire(project, nonce="n1")
    assert (again.fence, again.remaining_us) == (first.fence, TTL_US)


def test_a_member_never_gets_more_than_the_ttl(live: LiveStore, project: str) -> None:
    holder = replace(HOLDER, group="job")
    first = live.acquire(project, holder=holder)
    step_back(live, project)
    member = live.acquire(project, holder=holder)
    assert (member.member, member.fence, member.remaining_us) == (True, first.fence, TTL_US)


@pytest.mark.parametrize("revoked", [False, True])
def test_a_renewal_never_gets_more_than_the_ttl(live: LiveStore, project: str, revoked: bool) -> None:
    keys = run_keys(project, "r")
    fence = live.acquire(project).fence
    if revoked:
        live.run(live.leases.break_lease(project, "r", fence, force=False, reason="why", by="ada"))
    step_back(live, project)
    partition = keys.partition
    script_keys = (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events)
    verdict, rest = live.run(live.store.run("renew", script_keys, (project, "r", fence, 0)))
    assert (verdict, int(rest[0])) == ("REVOKED" if revoked else "RENEWED", TTL_US)


# What comes late takes nothing back: `renewal_is_delivery`


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_renewed_grant_is_never_taken_back(live: LiveStore, project: str, repeated: bool, sync: bool) -> None:
    keys = run_keys(project, "r")
    live.release(project, live.acquire(project).fence)
    grant = live.acquire(project, nonce="n1", sync=sync)
    given_to = live.raw.hget(keys.run, "call")
    assert given_to
    live.run(live.leases.renew(project, "r", grant.fence))
    if repeated:
        # Given a first try that lay in a frozen coordinator: it repeats the nonce, and finds that its caller is gone.
        assert live.acquire(project, nonce="n1", sync=sync).fence == grant.fence
        prefix, _, number = given_to.partition(".")
        given_to = f"{prefix}.{int(number) + 1}"  # coordinators number their calls
    assert not live.run(live.leases.abandon(keys, keys, nonce="n1", call=given_to))
    assert live.run(live.leases.renew(project, "r", grant.fence)).reinstated is False
