"""The model's traces on real servers: safe as built, violated without the rule that the trace is about.

Failovers are made by hand, so that the one thing happens that Sentinels do rarely: who lacks a write is promoted, who
was never demoted is named again. `Nonce retry near expiry` is in test_variants.py: it takes no fault of the store.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
import runlease
from runlease.channel import open_channel
from runlease.grants import Renewal
from runlease.status import error_from
from runlease.v1 import metrics_pb2, metrics_pb2_grpc, runs_pb2

from tests.support.cli import bootstrap
from tests.support.clock import WallClock
from tests.support.coordinator import CoordinatorProcess
from tests.support.decisions import decided, is_granted, is_succeeded, variants
from tests.support.proxy import TO_SERVER, Proxy
from tests.support.puppet import Puppet, see_trained
from tests.support.redis import RedisServer, Snapshot, free_port
from tests.support.replicaset import ReplicaSet, end_quarantine
from tests.support.wait import until

#: Of traces in which a lease has to last for as long as their steps take on a slow machine.
LONG_TTL_S = 30
SHORT_TTL_S = 5


def see_who_believes(variant: str | None, holder: Puppet, coordinator: CoordinatorProcess) -> None:
    """See that a holder believes in its lease, and that only the variant grants the run to somebody else, too."""
    granted = is_granted(coordinator)
    assert holder.call("state")["state"] == "held"
    assert granted == (variant is not None)


def goes_on(holder: Puppet, coordinator: CoordinatorProcess, granted: dict[str, Any]) -> None:
    """See that a holder who had logged 100 steps goes on under its lease, with all of them."""
    holder.call("train", start=100, stop=200)
    assert holder.call("flush", timeout=60)
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        see_trained(client, granted, 200)
        assert client.get_run("p", "r").state == "running"
    assert holder.call("finish")


@variants("no_wait")
def test_a_frozen_primary_that_accepts_writes_long_after_its_link_was_cut(
    variant: str | None, start_replicas: Callable[..., ReplicaSet], start_puppet_at: Callable[..., Puppet]
) -> None:
    replicas = start_replicas(SHORT_TTL_S, variant)
    old, new, third = replicas.nodes
    holder = start_puppet_at(replicas.serve(old))
    holder.call("init", project="p", id="r", resume="allow")
    # Given a primary whose links are lost, frozen while another one is promoted,
    for replica in (new, third):
        replicas.lose(replica)
    old.freeze()
    new.promote()
    replicas.follow(third, new)
    old.thaw()
    # which goes on taking writes, and counts its replicas as online,
    assert old.ask("SET", "somewhere", "something")
    assert old.info("replication")["connected_slaves"] == 2
    # when the quarantine of the new one is over, and the run granted there,
    heir = start_puppet_at(replicas.serve(new))
    heir.call("init", project="p", id="r", resume="allow")
    # then the old one has kept nobody in his belief.
    if variant is None:
        assert holder.call("state")["state"] != "held"
    else:
        until(lambda: holder.call("state")["state"] == "held")
    assert heir.call("state")["state"] == "held"


@variants("run_id")
def test_a_fail_back_to_a_primary_that_was_demoted(
    variant: str | None, start_replicas: Callable[..., ReplicaSet], start_puppet_at: Callable[..., Puppet]
) -> None:
    replicas = start_replicas(LONG_TTL_S, variant)
    first, second, third = replicas.nodes
    coordinator = replicas.serve(first)
    replicas.lag(second)
    path = replicas.proxy(coordinator.address)
    holder = start_puppet_at(coordinator, path.address)
    holder.call("init", project="p", id="r", resume="allow")
    path.stall(TO_SERVER)
    # When one is promoted that lacks the grant, the first one follows it, and is promoted again,
    second.promote()
    replicas.follow(first, second)
    first.promote()
    replicas.follow(third, first)
    # then the grant is lost, and its holder believes in it.
    see_who_believes(variant, holder, coordinator)


@variants("no_quarantine")
def test_a_grant_lost_with_the_primary_while_its_holder_believes(
    variant: str | None, start_replicas: Callable[..., ReplicaSet], start_puppet_at: Callable[..., Puppet]
) -> None:
    replicas = start_replicas(LONG_TTL_S, variant)
    old, new, third = replicas.nodes
    first, second = replicas.serve(old), f"127.0.0.1:{free_port()}"
    replicas.lag(new)
    path = replicas.proxy(second)
    holder = start_puppet_at(first, f"{first.address},{path.address}")
    granted = holder.call("init", project="p", id="r", resume="allow")
    holder.call("train", start=0, stop=100)
    assert holder.call("flush")
    # When the primary dies with its machine, and one is promoted that lacks the grant,
    path.stall(TO_SERVER)
    old.kill()
    first.kill()
    new.promote()
    replicas.follow(third, new)
    coordinator = replicas.serve(new, address=second)
    # then nobody else is granted,
    see_who_believes(variant, holder, coordinator)
    if variant is None:
        path.flow(TO_SERVER)
        goes_on(holder, coordinator, granted)


@variants("replid_alone")
def test_a_primary_cut_off_and_never_demoted_that_is_named_again(
    variant: str | None, start_replicas: Callable[..., ReplicaSet], start_puppet_at: Callable[..., Puppet]
) -> None:
    replicas = start_replicas(LONG_TTL_S, variant)
    old, new, third = replicas.nodes
    before = replicas.serve(old)
    # Given a grant of a new primary while the old one is frozen,
    old.freeze()
    new.promote()
    replicas.follow(third, new)
    meanwhile = replicas.serve(new)
    end_quarantine(new, "p")
    path = replicas.proxy(meanwhile.address)
    holder = start_puppet_at(meanwhile, path.address)
    holder.call("init", project="p", id="r", resume="allow")
    path.stall(TO_SERVER)
    # when the old one is named again, and a replica of the new one turns to it,
    old.thaw()
    replicas.follow(third, old)
    # then it has the replication ID that it had, and has lost the grant.
    see_who_believes(variant, holder, before)


@variants("no_quarantine")
def test_an_everysec_store_that_is_killed(
    variant: str | None,
    stack: ExitStack,
    start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]],
    start_puppet_at: Callable[..., Puppet],
) -> None:
    server, coordinator = start_store(LONG_TTL_S, variant, sync="everysec")
    path = stack.enter_context(contextlib.closing(Proxy(coordinator.address)))
    holder = start_puppet_at(coordinator, path.address)
    # What is written from here on is what the last second before the SIGKILL held, which is sometimes lost.
    snapshot = Snapshot(server)
    granted = holder.call("init", project="p", id="r", resume="allow")
    holder.call("train", start=0, stop=100)
    assert holder.call("flush")
    path.stall(TO_SERVER)
    snapshot.restore()
    see_who_believes(variant, holder, coordinator)
    if variant is None:
        path.flow(TO_SERVER)
        goes_on(holder, coordinator, granted)


@variants("reinstate_unconfirmed")
def test_a_superseded_holder_is_not_reinstated_under_its_fence(
    variant: str | None, start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]]
) -> None:
    server, coordinator = start_store(SHORT_TTL_S, variant)
    with runlease.Client(coordinator.address, timeout_s=0.5) as client:
        first = client.acquire("p", "r", nonce="1", resume="allow")
        snapshot = Snapshot(server)
        until(lambda: is_succeeded(client))
        second = decided(lambda: client.get_run("p", "r"))
        assert isinstance(second, runlease.RunRecord)
        assert second.attempt == 2
        # When the second grant is lost, its holder sleeps through the quarantine, and the first one wakes up,
        snapshot.restore()
        assert decided(lambda: client.renew("p", "r", first.fence, incarnation=first.incarnation)) == "UNCONFIRMED"
        end_quarantine(server, "p")
        renewed = decided(lambda: client.renew("p", "r", first.fence, incarnation=first.incarnation))
        # then it gets the run as who acquires it anew would, above all that was granted, and the second one is stale.
        assert isinstance(renewed, Renewal)
        assert (renewed.fence > second.fence) == (variant is None)
        with pytest.raises(runlease.StaleFence):
            decided(lambda: client.renew("p", "r", second.fence))
        with pytest.raises(runlease.StaleFence):
            appends(coordinator, second.fence)


@variants("append_unchecked")
def test_a_zombie_that_appends_after_a_rollback(
    variant: str | None, start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]]
) -> None:
    server, coordinator = start_store(LONG_TTL_S, variant)
    with runlease.Client(coordinator.address, timeout_s=0.5) as client:
        first = client.acquire("p", "r", nonce="1", resume="allow")
        snapshot = Snapshot(server)
        client.release("p", "r", first.fence)
        assert client.acquire("p", "r", nonce="2", resume="allow").fence > first.fence
        # When the record of the first grant is back, in a quarantine and behind it,
        snapshot.restore()
        accepted = [appends(coordinator, first.fence)]
        end_quarantine(server, "p")
        accepted.append(appends(coordinator, first.fence))
    assert accepted == [variant is not None] * 2


@variants("counter_fences")
def test_fences_rise_though_the_store_was_wiped(
    variant: str | None, start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]]
) -> None:
    server, coordinator = start_store(LONG_TTL_S, variant)
    with runlease.Client(coordinator.address, timeout_s=0.5) as client:
        first = client.acquire("p", "r", nonce="1", resume="allow")
        server.ask("FLUSHALL")
        # Nothing is decided until somebody says that the data are lost, and then only behind a quarantine.
        with pytest.raises(runlease.CoordinatorUnavailable, match="lost its data"):
            client.acquire("p", "r", nonce="2", resume="allow")
        bootstrap(server.url, "--lost-data", "--max-ttl", str(LONG_TTL_S))
        assert not is_granted(coordinator)
        end_quarantine(server, "p")
        second = client.acquire("p", "r", nonce="2", resume="allow")
    assert (second.fence <= first.fence) == (variant is not None)


@variants("no_clock_guard")
def test_a_store_clock_that_steps_forward(
    variant: str | None,
    wall_clock: WallClock,
    start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]],
    start_puppet_at: Callable[..., Puppet],
) -> None:
    _, coordinator = start_store(LONG_TTL_S, variant, clock=wall_clock)
    holder = start_puppet_at(coordinator)
    holder.call("init", project="p", id="r", resume="allow")
    # The store says that the lease has expired; its holder and the coordinator know better.
    wall_clock.set(60)
    see_who_believes(variant, holder, coordinator)


def appends(coordinator: CoordinatorProcess, fence: int) -> bool:
    """Append a point under a fence; returns whether it is acknowledged, where only its epoch is to refuse it."""
    writer = {"fence": fence, "writer": "main", "session": secrets.token_hex(8)}
    opening = metrics_pb2.OpenWriter(run=runs_pb2.RunRef(project="p", id="r"), **writer)
    points = metrics_pb2.Points(steps=[0], times=[1e9], series=[metrics_pb2.Series(key="loss", values=[1.0])])
    requests = [
        metrics_pb2.AppendRequest(open=opening),
        metrics_pb2.AppendRequest(entry=metrics_pb2.Entry(seq=1, points=points)),
    ]
    with open_channel(coordinator.address) as channel:
        append = metrics_pb2_grpc.MetricServiceStub(channel).Append

        def call() -> str | None:
            try:
                return [answer.WhichOneof("message") for answer in append(iter(requests), timeout=5)][-1]
            except grpc.RpcError as error:
                raise error_from(error) from None

        return decided(call) == "ack"
