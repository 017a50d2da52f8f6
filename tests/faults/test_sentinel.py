"""A training behind Sentinels: its primary dies or freezes, and the coordinator goes on with the one named next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
import runlease
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.places import Primary
from runlease_coordinator.storeurl import StoreUrl

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet, see_trained
from tests.support.sentinels import SERVICE, Sentinel, SentinelSite
from tests.support.wait import until

LOG = run_keys("p", "r").log


@pytest.fixture
def site(redis_binary: str) -> Iterator[SentinelSite]:
    """Three data nodes and three Sentinels."""
    site = SentinelSite(binary=redis_binary)
    yield site
    site.close()


@pytest.mark.parametrize("fate", ["killed", "frozen"])
def test_a_training_goes_on_with_the_primary_that_is_named_next(
    site: SentinelSite,
    fate: str,
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    settings = ("--data-nodes", "3")
    bootstrap(site.url, *settings)
    coordinator = start_coordinator("--store", site.url, *settings)
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=20)
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        before = site.primary
        # Given what was logged until now at all data nodes, when the primary is gone,
        length = before.ask("XLEN", LOG)
        until(lambda: all(node.ask("XLEN", LOG) == length > 0 for node in site.nodes))
        if fate == "frozen":
            before.freeze()
        else:
            before.kill()
        site.promoted(before)
        # then the next one gets all that comes, under the same lease, without a restart of anything,
        trainer.call("train", start=1000, stop=2000)
        assert trainer.call("flush")
        assert client.get_run("p", "r").fence == granted["fence"]
        # and goes on to, when the old one is back, as a replica.
        before.thaw() if fate == "frozen" else before.start()
        until(lambda: before.role == "slave")
        trainer.call("train", start=2000, stop=3000)
        assert trainer.call("flush")
        see_trained(client, granted, 3000)
    assert trainer.call("finish")
    assert "Traceback" not in coordinator.log.read_text()


def test_a_sentinel_that_was_cut_off_convinces_nobody(
    site: SentinelSite, redis_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runlease_coordinator.store.places._ASK_EVERY_S", 0.0)
    # Given a Sentinel that knows of the first primary and of nothing since, beside three that have failed over,
    before = site.primary
    cut_off_from = site.proxy(before).address
    site.failover()
    stale = Sentinel(cut_off_from, binary=redis_binary, down_after_ms=1000)
    url = StoreUrl.parse(
        f"redis+sentinel://{stale.address},{','.join(one.address for one in site.sentinels)}/{SERVICE}"
    )
    assert url is not None
    place = Primary(url)

    async def look() -> tuple[str, bool]:
        # when all are asked, then the newer word counts,
        connection = await place.connect()
        try:
            named = f"{connection.host}:{connection.port}"
            # and when only the stale one answers, that is no reason to leave.
            for sentinel in site.sentinels:
                sentinel.freeze()
            await place.look()
            return named, place.left(connection)
        finally:
            await connection.disconnect()

    try:
        now = site.proxy(site.primary).address
        assert stale.primary == cut_off_from != now
        assert asyncio.run(look()) == (now, False)
        assert stale.primary == cut_off_from
    finally:
        for sentinel in site.sentinels:
            sentinel.thaw()
        stale.close()


@pytest.mark.parametrize("port", [1, 65535])
def test_a_sentinel_that_names_another_under_the_same_epoch_holds_nobody_up(site: SentinelSite, port: int) -> None:
    odd, other, silent = site.sentinels
    right = other.primary
    odd.watch(f"127.0.0.1:{port}")  # nobody is there
    assert odd.epoch == other.epoch
    silent.freeze()  # one word against another
    url = StoreUrl.parse(site.url)
    assert url is not None
    place = Primary(url)

    async def connect() -> str:
        connection = await place.connect()
        try:
            return f"{connection.host}:{connection.port}"
        finally:
            await connection.disconnect()

    assert asyncio.run(connect()) == right
    silent.thaw()
    site.settle()
    assert odd.primary == right
