"""A training on a cluster: a primary dies or freezes, a slot moves, and the coordinator goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runlease
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.scripts import Script
from runlease_coordinator.store.store import Store

from tests.support.cli import Cli, bootstrap
from tests.support.clusters import ClusterSite
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.puppet import Puppet, see_trained
from tests.support.wait import until

LOG = run_keys("p", "r").log
SHOW = Script("show", "return redis.call('HGET', KEYS[1], ARGV[1])", "f" * 40)


@pytest.fixture
def site(redis_binary: str) -> Iterator[ClusterSite]:
    """Three shards of a primary and a replica."""
    site = ClusterSite(binary=redis_binary, replicas=1)
    yield site
    site.close()


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
        see_trained(client, granted, 3000)
    assert trainer.call("finish")
    assert "Traceback" not in coordinator.log.read_text()


def test_a_training_goes_on_while_its_slot_moves_key_by_key(
    site: ClusterSite, start_coordinator: Callable[..., CoordinatorProcess], start_puppet: Callable[..., Puppet]
) -> None:
    bootstrap(site.url)
    coordinator = start_coordinator("--store", site.url)
    trainer = start_puppet(coordinator)
    granted = trainer.call("init", project="p", id="r", resume="allow", ttl=30)
    trainer.call("train", start=0, stop=1000)
    assert trainer.call("flush")
    source = site.owner(LOG)
    target = next(node for node in site.primaries if node is not source)
    slot = int(source.ask("CLUSTER", "KEYSLOT", LOG))
    # Given a slot that is half here, half there, when something is logged, then it has to wait,
    site.begin_migration(slot, source, target)
    meta = run_keys("p", "r").partition.meta
    assert source.ask("MIGRATE", "127.0.0.1", target.port, meta, 0, 5000) == "OK"
    trainer.call("train", start=1000, stop=2000)
    until(lambda: "is moving this project to another node" in (trainer.call("stats")["last_error"] or ""))
    # and when the slot has moved, nothing is missing, and the lease is the same.
    while site.move_keys(slot, source, target):
        pass
    site.finish_migration(slot, source, target)
    assert trainer.call("flush")
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        see_trained(client, granted, 2000)
    assert site.owner(LOG) is target
    assert trainer.call("finish")
    assert "Traceback" not in coordinator.log.read_text()


def test_calls_follow_a_slot_on_its_way(site: ClusterSite) -> None:
    """-ASK to the node that a key has gone to, -MOVED once its slot has, also by a store that knew nothing of it."""
    key = run_keys("p", "r").partition.meta
    source = site.owner(key)
    target = next(node for node in site.primaries if node is not source)
    slot = int(source.ask("CLUSTER", "KEYSLOT", key))

    async def follow() -> list[bytes]:
        store = Store(site.url)
        await store.start()
        try:
            await store.control.call("HSET", key, "there", "1")
            site.begin_migration(slot, source, target)
            await store.control.call("HSET", key, "there", "2")
            site.move_keys(slot, source, target)
            asked = await store.reads.call("HGET", key, "there")
            ran = await store.reads.run(SHOW, (key,), ("there",))  # by -ASK, and a script that no node knows
            site.finish_migration(slot, source, target)
            return [asked, ran, await store.control.call("HGET", key, "there")]
        finally:
            await store.close()

    assert asyncio.run(follow()) == [b"2", b"2", b"2"]


def test_a_part_that_is_down_is_named_and_comes_back(
    redis_binary: str, start_coordinator: Callable[..., CoordinatorProcess]
) -> None:
    site = ClusterSite("appendonly yes", "appendfsync always", binary=redis_binary)
    try:
        bootstrap(site.url)
        coordinator = start_coordinator("--store", site.url)
        lost = site.owner(LOG)
        alive = next(node for node in site.primaries if node is not lost)
        other = next(name for name in map(str, range(100)) if site.owner(run_keys(name, "r").log) is alive)
        with runlease.init(project=other, id="r", ttl=30, coordinator=coordinator.address) as run:
            lost.kill()
            # By default a cluster stops altogether once a slot is served by nobody.
            until(lambda: "cluster_state:fail" in alive.command("CLUSTER", "INFO").decode())
            with (
                runlease.Client(coordinator.address, timeout_s=0.9) as hasty,
                pytest.raises(runlease.CoordinatorUnavailable, match="the store is away"),
            ):
                hasty.get_run("p", "r")
            run.log({"loss": 1.0}, step=0)
            until(lambda: "is a cluster of which a part is down" in (run.stats().last_error or ""))
            lost.start()
            assert run.flush(30)
        with runlease.Client(coordinator.address, timeout_s=30) as client:
            assert client.get_run(other, "r").state == "finished"
    finally:
        site.close()


def test_one_node_of_a_cluster_and_a_server_that_is_in_none_are_refused(site: ClusterSite, redis_binary: str) -> None:
    alone = Node(binary=redis_binary)
    try:
        for url, said in (
            (site.nodes[0].tcp_url, "redis+cluster://"),
            (f"redis+cluster://{alone.address}", "cluster support disabled"),
        ):
            refused = subprocess.run(
                [sys.executable, "-m", "runlease", "serve", "--store", url], capture_output=True, text=True, timeout=60
            )
            assert refused.returncode == 2
            assert said in refused.stderr
            assert "Traceback" not in refused.stderr
    finally:
        alone.close()


def test_commands_see_all_nodes(
    site: ClusterSite, start_coordinator: Callable[..., CoordinatorProcess], tmp_path: Path
) -> None:
    """Lists, events and watching span projects at different nodes, also after one of the nodes was replaced."""
    bootstrap(site.url)
    coordinator = start_coordinator("--store", site.url, "--history-url", str(tmp_path), "--archive-after", "0")
    cli = Cli(coordinator.env)
    projects: dict[str, str] = {}
    for name in map(str, range(100)):
        projects.setdefault(site.owner(run_keys(name, "r").log).address, name)
    assert len(projects) == 3

    def train(run_id: str) -> None:
        for project in projects.values():
            with runlease.init(project=project, id=run_id, coordinator=coordinator.address) as run:
                run.log({"loss": 1.0}, step=0)

    with runlease.Client(coordinator.address, timeout_s=30) as client:
        moments = client.watch()
        train("before")
        seen = set()
        while len(seen) < 3:
            if (event := next(moments)).kind == "released":
                seen.add(event.project)
        moments.close()
        listed = cli.json("ls")
        assert {(run["project"], run["id"]) for run in listed} == {(name, "before") for name in projects.values()}
        site.failover(site.owner(LOG))
        listed = cli.json("ls")
        assert {run["project"] for run in listed} == set(projects.values())
        for name in projects.values():
            assert name in cli("show", f"{name}/before").stdout
            assert "released" in cli("events", name).stdout
        # Each part of the archive is found, wherever its manifest lies.
        until(lambda: all(list(tmp_path.rglob(f"{name}/**/part-*.parquet")) for name in projects.values()))
        for name in projects.values():
            assert [row.value for row in client.history(name, "before", keys=["loss"]).rows()] == [1.0]
