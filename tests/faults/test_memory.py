"""A store at its memory's end: metrics wait at their trainers, leases go on, and everything arrives afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import runlease

from tests.faults.site import Site
from tests.support.puppet import Puppet
from tests.support.wait import until


@pytest.fixture(params=["embedded", "redis"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "redis":
        request.getfixturevalue("redis_binary")
    site = Site(request.param)
    yield site
    site.close()


@pytest.fixture
def start(site: Site) -> Iterator[Callable[[], Puppet]]:
    started: list[Puppet] = []

    def start() -> Puppet:
        started.append(Puppet(site.env))
        return started[-1]

    yield start
    for puppet in started:
        puppet.close()


def renewed(trainer: Puppet) -> Callable[[], bool]:
    """Return a condition: the lease was renewed since the last look, so that more remains of it than before."""
    before = [trainer.call("state")["remaining_s"]]

    def look() -> bool:
        before.append(trainer.call("state")["remaining_s"])
        return before[-1] > before[-2]

    return look


def test_metrics_wait_for_memory_and_leases_do_not(site: Site, start: Callable[[], Puppet]) -> None:
    trainer = start()
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=5)
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    with site.open_store() as store, runlease.Client(site.steady_address) as client:
        # When all that the store holds is too much
        store.config_set("maxmemory", 1)
        trainer.call("train", start=1000, stop=3000)
        trainer.call("commit", step=2999, wait=False)
        until(lambda: "out of memory" in trainer.call("stats")["last_error"])
        assert "maxmemory" in trainer.call("stats")["last_error"]  # what to do about it

        # Then the training goes on, its lease is renewed, and others start and end
        until(renewed(trainer))
        assert trainer.call("train", start=3000, stop=4000) == 4000
        other = client.acquire("p", "other", nonce="n", resume="never")
        client.renew("p", "other", other.fence)
        client.release("p", "other", other.fence)
        assert len(client.history("p", "r")) == 2000
        until(renewed(trainer))
        stats = trainer.call("stats")
        assert (stats["acknowledged"], stats["dropped"], stats["lost"], stats["rejected"]) == (2000, 0, 0, 0)
        assert not trainer.call("flush", timeout=0.2)

        # A coordinator that starts now serves as well
        if site.external:
            site.kill_coordinators()
            trainer.call("check")
            until(renewed(trainer))

        # And when there is memory again, everything arrives
        store.config_set("maxmemory", 0)
        assert trainer.call("flush")
        assert [(row.step, row.value) for row in client.history("p", "r", keys=["loss"]).rows()] == [
            (step, float(step)) for step in range(4000)
        ]
        run = client.get_run("p", "r")
        assert (run.points, run.fence, run.checkpoint and run.checkpoint.step) == (8000, granted["fence"], 2999)
    assert trainer.call("finish")
    assert "out of memory" in trainer.stderr
