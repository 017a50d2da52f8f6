"""A store with replicas: what is acknowledged when they have it, what goes on without, what a store is opened for.

The replicas are frozen (their connections stay, and nothing is acknowledged) or killed (the primary sees them leave).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import runlease
from runlease_coordinator.store.keys import run_keys

from tests.support.cli import Cli
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.puppet import Puppet
from tests.support.wait import until

#: What differs between servers is in tests/store/test_wait.py.
pytestmark = pytest.mark.parametrize("any_binary", ["valkey"], indirect=True)

RUN = run_keys("p", "r")
Start = Callable[..., CoordinatorProcess]
Begin = Callable[[CoordinatorProcess], Puppet]


@pytest.fixture
def cli(coordinator: CoordinatorProcess) -> Cli:
    return Cli(coordinator.env)


@pytest.fixture
def serve(nodes: list[Node], cli: Cli, start_coordinator: Start) -> Start:
    """Start a coordinator of a store of three data nodes."""
    cli("bootstrap", "--data-nodes", "3", "--max-ttl", "30", nodes[0].tcp_url)
    return lambda *flags: start_coordinator("--store", nodes[0].tcp_url, "--data-nodes", "3", *flags, "--max-ttl", "30")


def refused(call: Callable[[runlease.Client], object], coordinator: CoordinatorProcess) -> runlease.RunleaseError:
    """Make a call that is tried for some seconds; returns how it was refused."""
    with runlease.Client(coordinator.address, timeout_s=3) as hasty, pytest.raises(runlease.RunleaseError) as caught:
        call(hasty)
    return caught.value


def test_what_no_replica_has_is_not_acknowledged_while_points_go_on(
    nodes: list[Node], serve: Start, start_puppet: Begin
) -> None:
    primary, *replicas = nodes
    coordinator = serve()
    trainer = start_puppet(coordinator)
    fence = trainer.call("init", project="p", id="r", resume="allow", ttl=30)["fence"]
    assert any(replica.ask("HGET", RUN.run, "fence") == str(fence) for replica in replicas)
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        for replica in replicas:
            replica.freeze()
        # Grants and renewals are refused, whatever they did; nobody believes in them.
        said = str(refused(lambda c: c.acquire("p", "other", nonce="n", resume="allow"), coordinator))
        assert "not replicated" in said
        assert "not replicated" in str(refused(lambda c: c.renew("p", "r", fence), coordinator))
        # Points are acknowledged, reads answered; a commit waits.
        trainer.call("train", start=0, stop=1000)
        assert trainer.call("flush")
        assert len(client.history("p", "r", keys=["loss"])) == 1000
        trainer.send("commit", step=999)
        until(lambda: primary.ask("ZCARD", RUN.ckpt) == 1)
        until(lambda: primary.info("commandstats")["cmdstat_wait"]["calls"] > 0)
        replicas[0].thaw()
        # With a replica the repetitions are answered, and covered by it.
        trainer.answer()
        assert replicas[0].ask("ZCARD", RUN.ckpt) == 1
        grant = client.acquire("p", "other", nonce="n", resume="allow")
        assert replicas[0].ask("HGET", run_keys("p", "other").run, "fence") == str(grant.fence)
        assert client.renew("p", "r", fence).remaining_s > 20
    assert trainer.call("finish")
    assert "Traceback" not in coordinator.log.read_text()


def test_replicated_points_wait_for_a_replica(nodes: list[Node], serve: Start, start_puppet: Begin) -> None:
    coordinator = serve("--durability", "replicated")
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow", ttl=30)
    trainer.call("train", start=0, stop=100)
    assert trainer.call("flush")
    for replica in nodes[1:]:
        replica.freeze()
    trainer.call("train", start=100, stop=200)
    until(lambda: "not replicated" in trainer.call("stats")["last_error"])
    assert trainer.call("stats")["acknowledged"] == 200  # two points a step
    nodes[2].thaw()
    assert trainer.call("flush")
    assert nodes[2].ask("XLEN", RUN.log) == nodes[0].ask("XLEN", RUN.log)
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        assert [row.step for row in client.history("p", "r", keys=["loss"]).rows()] == list(range(200))
    assert trainer.call("finish")


def test_without_replicas_nothing_is_taken_and_with_them_again_holders_go_on(
    nodes: list[Node], serve: Start, start_puppet: Begin
) -> None:
    primary, *replicas = nodes
    coordinator = serve()
    trainer = start_puppet(coordinator)
    fence = trainer.call("init", project="p", id="r", resume="allow", ttl=30)["fence"]
    for replica in replicas:
        replica.kill()
    assert "too few replicas" in str(refused(lambda c: c.renew("p", "r", fence), coordinator))
    trainer.call("train", start=0, stop=100)
    until(lambda: "NOREPLICAS 0 online, 1 have to" in trainer.call("stats")["last_error"])
    log = coordinator.log
    until(lambda: "the store takes nothing: the store has too few replicas" in log.read_text())
    for replica in replicas:
        replica.start()
        replica.follow(primary)
    # They needed a full sync, which could also mean a primary that others had replaced: a quarantine.
    until(lambda: "no grants in 64 of 64 partitions" in log.read_text())
    assert "no grants for" in str(refused(lambda c: c.acquire("p", "new", nonce="n", resume="allow"), coordinator))
    assert trainer.call("flush")
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        assert client.get_run("p", "r").fence == fence
        assert len(client.history("p", "r", keys=["loss"])) == 100
    assert trainer.call("finish")
    assert "Traceback" not in log.read_text()


def test_a_dead_replica_of_two_is_not_missed(nodes: list[Node], serve: Start, start_puppet: Begin) -> None:
    coordinator = serve("--durability", "replicated")
    nodes[1].freeze()
    nodes[2].kill()
    nodes[1].thaw()
    trainer = start_puppet(coordinator)
    trainer.call("init", project="p", id="r", resume="allow", ttl=30)
    trainer.call("train", start=0, stop=100)
    trainer.call("commit", step=99)
    assert trainer.call("finish")
    assert nodes[1].ask("HGET", RUN.run, "end") == "finished"


def test_what_a_store_was_opened_for_is_asked_of_its_coordinators(nodes: list[Node], cli: Cli) -> None:
    url = nodes[0].tcp_url

    def refusal(*flags: str) -> str:
        return cli("serve", "--listen", "127.0.0.1:0", "--store", url, *flags, status=2).stderr

    assert f"`runlease bootstrap {url}` once" in refusal()
    done = cli("bootstrap", "--data-nodes", "3", "--max-ttl", "120", url)
    assert done.stdout == f"opened 64 partitions of {url}; now: runlease serve --data-nodes 3 --store {url}\n"
    said = refusal()
    assert (
        "opened for writes that reach 1 replica, and --data-nodes 1 means no replica: give --data-nodes 2 or 3" in said
    )
    assert f"`runlease bootstrap --data-nodes 1 {url}`" in said
    assert "at most 120 s, and --max-ttl is 300 s" in (said := refusal("--data-nodes", "3", "--max-ttl", "300"))
    assert f"`runlease bootstrap --max-ttl 300 {url}`" in said
    # What is not given stays; again, nothing changes.
    assert cli("bootstrap", url).stdout == f"{url} was open already; nothing changed\n"
    meta = run_keys("p", "r").partition.meta
    before = nodes[0].ask("HGETALL", meta)
    assert cli("bootstrap", "--max-ttl", "300", url).stdout.startswith(f"changed 64 partitions of {url}; ")
    after = nodes[0].ask("HGETALL", meta)
    assert (after["max_ttl_us"], after["replicas"]) == ("300000000", "1")
    assert after["quarantine_us"] == "308000000"
    assert after["epoch"] == before["epoch"]
    # A shorter one keeps the longer quarantine; another number of nodes is a loss, as far as anybody knows.
    cli("bootstrap", url, RUNLEASE_MAX_TTL="60", RUNLEASE_DATA_NODES="1")
    last = nodes[0].ask("HGETALL", meta)
    assert (last["max_ttl_us"], last["replicas"], last["quarantine_us"]) == ("60000000", "0", "308000000")
    assert int(last["epoch"]) > int(before["epoch"])
    assert int(last["quarantine_until_us"]) > int(last["epoch"])


def test_a_store_that_lost_its_data_is_opened_in_quarantine(
    nodes: list[Node], serve: Start, start_puppet: Begin, cli: Cli
) -> None:
    """Given holders of a store that is wiped, they go on once it is opened again, and nobody else gets their runs."""
    primary = nodes[0]
    coordinator = serve()
    trainer = start_puppet(coordinator)
    fence = trainer.call("init", project="p", id="r", resume="allow", ttl=30)["fence"]
    primary.ask("FLUSHALL")
    assert "--lost-data" in str(refused(lambda c: c.acquire("p", "r", nonce="n", resume="allow"), coordinator))
    cli("bootstrap", "--lost-data", "--data-nodes", "3", "--max-ttl", "30", primary.tcp_url)
    assert "no grants for" in str(refused(lambda c: c.acquire("p", "r", nonce="n", resume="allow"), coordinator))
    with runlease.Client(coordinator.address, timeout_s=30) as client:
        trainer.call("train", start=0, stop=100)
        assert trainer.call("flush")
        assert client.get_run("p", "r").fence == fence
    assert trainer.call("finish")
