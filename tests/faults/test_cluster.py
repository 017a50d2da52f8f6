"""A training on a cluster: a primary dies or freezes, a slot moves, and the coordinator goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import runlease
from runlease_coordinator.store.keys import run_keys

from tests.support.clusters import ClusterSite
from tests.support.coordinator import CoordinatorProcess
from tests.support.puppet import Puppet
from tests.support.wait import until

LOG = run_keys("p", "r").log


@pytest.fixture
def site(redis_binary: str) -> Iterator[ClusterSite]:
    """Three shards of a primary and a replica."""
    site = ClusterSite(binary=redis_binary, replicas=1)
    yield site
    site.close()


def bootstrap(url: str) -> None:
    subprocess.run([sys.executable, "-m", "runlease", "bootstrap", url], check=True, capture_output=True)


@pytest.mark.parametrize("fate", ["killed", "frozen"])
def test_a_training_goes_on_with_the_replica_that_is_promoted(
    site: ClusterSite,
    fate: str,
    start_coordinator: Callable[..., CoordinatorProcess],
    start_puppet: Callable[..., Puppet],
) -> None:
    bootstrap(site.url)
    coordinator = start_coordinator("--store", site.url)
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=20)
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        before = site.owner(LOG)
        heir = site.replicas_of(before)[0]
        until(lambda: heir.info("replication")["slave_repl_offset"] == before.info("replication")["master_repl_offset"])
        site.failover(before, freeze=fate == "frozen")
        trainer.call("train", start=1000, stop=2000)
        assert trainer.call("flush")
        before.thaw() if fate == "frozen" else before.start()
        until(lambda: before.role == "slave")
        trainer.call("train", start=2000, stop=3000)
        assert trainer.call("flush")
        rows = client.history("p", "r", keys=["loss"]).rows()
        assert [(row.step, row.value) for row in rows] == [(step, float(step)) for step in range(3000)]
        run = client.get_run("p", "r")
        assert (run.fence, run.attempt) == (granted["fence"], 1)
    assert trainer.call("finish")
    assert "Traceback" not in coordinator.log.read_text()
