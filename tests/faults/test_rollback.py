"""A store that comes back as it was a while ago, while the holder lives on under the same fence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import runlease

from tests.support.cli import Cli, bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.redis import RedisServer, Snapshot
from tests.support.wait import until

#: The SDK keeps what is acknowledged for 5 s; that it is longer ago than that is the case to test.
FORGOTTEN_S = 6.0


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisServer]:
    server = RedisServer("appendonly yes", "appendfsync always", binary=redis_binary)
    bootstrap(server.url)
    yield server
    server.close()


def values(client: runlease.Client) -> dict[int, float]:
    rows = list(client.history("p", "r", keys=["loss"], superseded=True).rows())
    assert len({row.step for row in rows}) == len(rows)
    return {row.step: row.value for row in rows}


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_store_that_lost_what_it_had_acknowledged(
    forgotten: bool,
    server: RedisServer,
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    coordinator = start_coordinator("--store", server.url)
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow")
    trainer.call("train", start=0, stop=1000)
    trainer.call("commit", step=999, wait=True)
    snapshot = Snapshot(server)
    trainer.call("train", start=1000, stop=2000)
    trainer.call("commit", step=1999, wait=True)
    if forgotten:
        time.sleep(FORGOTTEN_S)
    trainer.call("train", start=2000, stop=2500)
    assert trainer.call("flush")

    # When the store is restored from before the second checkpoint, and the training goes on
    snapshot.restore()
    trainer.call("train", start=2500, stop=3000)
    trainer.call("commit", step=2999, wait=True)
    until(lambda: trainer.call("state")["state"] == "held")
    stats = trainer.call("stats")
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        run, found = client.get_run("p", "r"), values(client)
    told = [event for event in Cli(coordinator.env).json("events", "p/r") if event["kind"] == "points_lost"]

    # Then what the SDK still kept is there again, and what it did not is counted, told and recorded
    gone = range(1000, 2000) if forgotten else range(0)
    assert found == {step: float(step) for step in range(3000) if step not in gone}
    assert (stats["lost"], stats["acknowledged"]) == (2 * len(gone), 6000 - 2 * len(gone))
    assert (stats["dropped"], stats["rejected"], stats["spooled"], stats["buffered"]) == (0, 0, 0, 0)
    assert (run.fence, run.attempt, run.points) == (granted["fence"], 1, 6000 - 2 * len(gone))
    assert [checkpoint.step for checkpoint in run.checkpoints] == [999, 1999, 2999]  # commits are always kept
    assert [event["details"]["points"] for event in told] == (["2000"] if forgotten else [])
    assert trainer.call("finish")
    assert f"{2 * len(gone)} points in" in trainer.stderr
