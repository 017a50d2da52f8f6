"""Where the promises end: what happens there, and that it is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
import runlease

from tests.support.cli import RUNLEASE, Cli, bootstrap
from tests.support.clock import WallClock
from tests.support.coordinator import CoordinatorProcess
from tests.support.decisions import is_granted
from tests.support.puppet import Puppet
from tests.support.redis import RedisServer
from tests.support.replicaset import ReplicaSet, end_quarantine
from tests.support.wait import until

_TTL_S = 30
#: More than a lease lasts.
_STEP_S = 60


def test_a_store_clock_that_steps_forward_while_no_coordinator_runs(
    wall_clock: WallClock,
    start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]],
    start_puppet_at: Callable[..., Puppet],
) -> None:
    _, coordinator = start_store(_TTL_S, clock=wall_clock)
    holder = start_puppet_at(coordinator)
    granted = holder.call("init", project="p", id="r", resume="allow")
    coordinator.kill()
    wall_clock.set(_STEP_S)
    coordinator.start()
    # Two believe: the new coordinator cannot know that the clock is not right.
    assert is_granted(coordinator)
    # The first one is told with its next renewal, and nothing under its fence is accepted any more.
    assert holder.call("wait_lost", timeout=_TTL_S)
    with runlease.Client(coordinator.address, timeout_s=30) as client, pytest.raises(runlease.StaleFence):
        client.renew("p", "r", granted["fence"])
    assert "superseded" in holder.stderr
    kinds = [event["kind"] for event in Cli(coordinator.env).json("events", "p/r")]
    assert kinds[-1] == "granted"
    assert "expired" in kinds


def test_a_wiped_store_whose_clock_is_behind(
    wall_clock: WallClock, start_store: Callable[..., tuple[RedisServer, CoordinatorProcess]]
) -> None:
    server, coordinator = start_store(_TTL_S, clock=wall_clock)
    with runlease.Client(coordinator.address, timeout_s=0.5) as client:
        first = client.acquire("p", "r", nonce="1", resume="allow")
        wall_clock.set(-_STEP_S)
        server.ask("FLUSHALL")
        # It is told twice: nothing is decided before somebody says that data are lost, and doctor sees the clock.
        with pytest.raises(runlease.CoordinatorUnavailable, match="lost its data"):
            client.acquire("p", "r", nonce="2", resume="allow")
        bootstrap(server.url, "--lost-data", "--max-ttl", str(_TTL_S))
        doctor = subprocess.run(
            [*RUNLEASE, "doctor", "-o", "json", "--store", server.url], check=False, capture_output=True, text=True
        )
        clocks = [check for check in json.loads(doctor.stdout)["checks"] if check["name"] == "clock"]
        assert [check["verdict"] for check in clocks] == ["warning"]
        assert not is_granted(coordinator)
        end_quarantine(server, "p")
        # A fence that is lower than one that was granted before.
        assert client.acquire("p", "r", nonce="2", resume="allow").fence < first.fence


def test_of_two_data_nodes_the_one_that_is_left_decides_nothing(
    start_replicas: Callable[..., ReplicaSet], start_puppet_at: Callable[..., Puppet]
) -> None:
    replicas = start_replicas(_TTL_S, nodes=2)
    old, new = replicas.nodes
    first = replicas.serve(old)
    holder = start_puppet_at(first)
    granted = holder.call("init", project="p", id="r", resume="allow")
    # When the primary is gone, and its only replica takes its place,
    old.kill()
    new.promote()
    with runlease.Client(replicas.serve(new).address, timeout_s=1.5) as client:

        def refusal(call: Callable[[], object]) -> str:
            with pytest.raises(runlease.CoordinatorUnavailable) as caught:
                call()
            return str(caught.value)

        def acquire() -> object:
            return client.acquire("p", "r", nonce="2", resume="allow")

        def renew() -> object:
            return client.renew("p", "r", granted["fence"])

        # then nothing is granted or renewed, since nobody else would have it; and that is said.
        for call in (acquire, renew):
            until(lambda call=call: "NOREPLICAS 0 online, 1 have to" in refusal(call))
        # With a second one the quarantine begins, in which its holder may go on, and behind which others may.
        old.start()
        replicas.follow(old, new)
        until(lambda: "no grants for" in refusal(acquire))
        until(lambda: "renew" in refusal(renew))
