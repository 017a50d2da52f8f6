"""Wall clocks of trainers and coordinators that are wrong, and step: no lease and no log depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
import runlease
from runlease_coordinator.store.server_binary import find_server

from tests.support.cli import bootstrap
from tests.support.clock import WallClock
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet, Refused
from tests.support.redis import RedisServer

_DAY_S = 86_400


@pytest.fixture
def store() -> Iterator[RedisServer]:
    server = RedisServer("appendonly yes", "appendfsync always", binary=str(find_server().path))
    yield server
    server.close()


@pytest.mark.parametrize("ahead_s", [_DAY_S, -_DAY_S], ids=["ahead", "behind"])
def test_clocks_of_trainers_and_coordinators_do_not_count(
    ahead_s: int,
    store: RedisServer,
    wall_clock: WallClock,
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a store whose clock is right, and a coordinator and a trainer whose clocks are a day off,
    bootstrap(store.url)
    wall_clock.set(ahead_s)
    with monkeypatch.context() as patched:
        for name, value in wall_clock.environment.items():
            patched.setenv(name, value)
        coordinator = start_coordinator("--store", store.url, "--lock-delay", "1")
    holder, other = start_puppet(coordinator, **wall_clock.environment), start_puppet(coordinator)
    with runlease.Client(coordinator.address) as client:
        granted = holder.call("init", project="p", id="r", resume="allow", ttl=5)
        renewed_us = store_time_us(store)
        # when they step while the lease is renewed, for longer than it lasts without,
        for turn in range(4):
            wall_clock.set(ahead_s * (turn % 2))
            holder.call("train", start=turn * 10, stop=turn * 10 + 10)
            assert holder.call("flush")
            with pytest.raises(Refused, match="LeaseHeld"):
                other.call("init", project="p", id="r", resume="must", wait=2)
            holder.call("check")
        assert store_time_us(store) - renewed_us > 5_000_000
        # then it is the same lease, nobody else was granted, and each point is there once.
        record = client.get_run("p", "r")
        assert (record.fence, record.attempt, record.state) == (granted["fence"], 1, "running")
        assert abs(granted["fence"] - renewed_us) < 60_000_000  # of the store's clock, not a day off
        rows = list(client.history("p", "r", keys=["loss"], superseded=True).rows())
        assert [row.step for row in rows] == list(range(40))
        # (The clocks were off indeed: points carry their trainer's, the log its coordinator's.)
        off = datetime.now() + timedelta(seconds=ahead_s)
        assert sum(abs(row.time - off.timestamp()) < 3600 for row in rows) == 20
        assert f"{off:%Y-%m-%d}" in coordinator.log.read_text()
        # And once it is frozen, its lease runs out at its time, and passes on.
        holder.stop()
        taken = other.call("init", project="p", id="r", resume="must", wait=30)
        holder.resume()
        assert taken["fence"] > granted["fence"]
        assert holder.call("wait_lost", timeout=20)


def store_time_us(store: RedisServer) -> int:
    seconds, microseconds = store.ask("TIME")
    return int(seconds) * 1_000_000 + int(microseconds)
