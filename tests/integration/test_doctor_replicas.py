"""`runlease doctor --store` on real replicated stores: one primary with replicas, behind Sentinels, a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from runlease_coordinator.store.server_binary import find_server

from tests.support.cli import Cli
from tests.support.clusters import ClusterSite
from tests.support.doctor import DURABLE, PACKED, Report
from tests.support.nodes import Node
from tests.support.redis import free_port
from tests.support.sentinels import SERVICE, SentinelSite
from tests.support.wait import until

#: Of a node as it should be.
GOOD = (*DURABLE, *PACKED, "repl-backlog-size 4mb")
FAILOVER = "the store fails over"
ONE_WRITER = "a process is paused, a machine sleeps"

StartNodes = Callable[..., list[Node]]


@pytest.fixture
def cli() -> Cli:
    return Cli(dict(os.environ))


@pytest.fixture
def start_nodes() -> Iterator[StartNodes]:
    """Start a primary and its replicas, in step."""
    started: list[Node] = []

    def start(count: int, *options: str) -> list[Node]:
        started.extend(Node(*(options or GOOD), binary=str(find_server().path)) for _ in range(count))
        for node in started[1:]:
            node.follow(started[0])
        return started

    yield start
    for node in started:
        node.close()


def test_three_data_nodes(cli: Cli, start_nodes: StartNodes) -> None:
    primary, *_ = start_nodes(3)
    cli("bootstrap", primary.tcp_url, "--data-nodes", "3")
    report = Report(cli, primary.tcp_url)
    assert report.not_ok() == set()
    assert report["replicas"][1] == "2 online, control writes wait for 1"
    assert "until 1 replicas have it (WAIT)" in report["write"][1]
    assert report.promises[FAILOVER] == "in part"  # nobody promotes one
    assert sum(each["name"] == "persistence" for each in report.checks) == 3


def test_replicas_that_are_not_waited_for(cli: Cli, start_nodes: StartNodes) -> None:
    primary, *_ = start_nodes(3)
    cli("bootstrap", primary.tcp_url)
    report = Report(cli, primary.tcp_url, status=1)
    assert report.not_ok() == {("replicas", "error")}
    assert "--data-nodes 3" in report.remedy("replicas")
    assert (report.promises[FAILOVER], report.promises[ONE_WRITER]) == ("no", "in part")


def test_another_number_of_data_nodes_than_it_was_opened_for(cli: Cli, start_nodes: StartNodes) -> None:
    primary, *_ = start_nodes(3)
    cli("bootstrap", primary.tcp_url, "--data-nodes", "3")
    report = Report(cli, primary.tcp_url, "--data-nodes", "5", status=1)
    assert report["data nodes"][0] == "error"
    assert "--data-nodes 5" in report.remedy("data nodes")


def test_two_data_nodes(cli: Cli, start_nodes: StartNodes) -> None:
    primary, _ = start_nodes(2)
    cli("bootstrap", primary.tcp_url, "--data-nodes", "2")
    report = Report(cli, primary.tcp_url)
    assert report.not_ok() == {("replicas", "warning")}
    assert "third data node" in report.remedy("replicas")
    assert (report.promises[FAILOVER], report.promises[ONE_WRITER]) == ("in part", "holds")


def test_replicas_that_are_gone_or_frozen(cli: Cli, start_nodes: StartNodes) -> None:
    primary, second, third = start_nodes(3)
    cli("bootstrap", primary.tcp_url, "--data-nodes", "3")
    second.freeze()
    third.freeze()
    report = Report(cli, primary.tcp_url, status=1)
    assert report["write"][0] == "error"
    assert "0 of 1 replicas had it" in report["write"][1]
    assert ("reached", "warning") in report.not_ok()
    for node in (second, third):
        node.kill()
    until(lambda: primary.info("replication")["connected_slaves"] == 0)
    report = Report(cli, primary.tcp_url, status=1)
    assert report["replicas"] == ("error", "0 online, control writes wait for 1")
    assert report.promises[FAILOVER] == "no"


def test_a_node_that_is_set_up_worse_than_its_primary(cli: Cli, start_nodes: StartNodes) -> None:
    primary, second, _ = start_nodes(3)
    cli("bootstrap", primary.tcp_url, "--data-nodes", "3")
    second.ask("CONFIG", "SET", "appendonly", "no")
    second.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report = Report(cli, primary.tcp_url, status=1)
    assert report.not_ok() == {("persistence", "error"), ("eviction", "error")}
    assert {each["where"] for each in report.checks if each["verdict"] == "error"} == {f"node {second.address}"}


def test_replication_settings(cli: Cli, start_nodes: StartNodes) -> None:
    primary, *_ = start_nodes(3)
    cli("bootstrap", primary.tcp_url, "--data-nodes", "3")
    primary.ask("CONFIG", "SET", "repl-backlog-size", "1mb", "min-replicas-to-write", "2")
    report = Report(cli, primary.tcp_url)
    assert report.not_ok() == {("backlog", "warning"), ("minimum", "warning")}
    assert report.remedy("minimum") == "set `min-replicas-to-write 1`"


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SentinelSite]:
    site = SentinelSite(*GOOD, binary=str(find_server().path))
    yield site
    site.close()


def test_a_store_behind_sentinels(cli: Cli, sentinels: SentinelSite) -> None:
    cli("bootstrap", sentinels.url, "--data-nodes", "3")
    report = Report(cli, sentinels.url)
    assert report.not_ok() == set()
    assert report["sentinels"][1].startswith("3 know each other, quorum 2, a failover begins after 1 s")
    assert set(report.promises.values()) == {"holds"}


def test_a_url_that_names_one_of_three_sentinels(cli: Cli, sentinels: SentinelSite) -> None:
    cli("bootstrap", sentinels.url, "--data-nodes", "3")
    url = f"redis+sentinel://{sentinels.sentinels[0].address}/{SERVICE}"
    report = Report(cli, url)
    assert report.not_ok() == {("named", "warning")}
    assert report["named"][1] == "the URL names 1 of 3"
    gone = f"127.0.0.1:{free_port()}"
    report = Report(cli, f"{sentinels.url.rpartition('/')[0]},{gone}/{SERVICE}")
    assert report.not_ok() == {("named", "warning")}
    assert gone in report["named"][1]


def test_a_quorum_that_one_sentinel_is(cli: Cli, sentinels: SentinelSite) -> None:
    cli("bootstrap", sentinels.url, "--data-nodes", "3")
    for quorum, verdict in ((1, "warning"), (4, "error")):
        for one in sentinels.sentinels:
            one.ask("SENTINEL", "SET", SERVICE, "quorum", quorum)
        report = Report(cli, sentinels.url, status=int(verdict == "error"))
        assert report.not_ok() == {("sentinels", verdict)}
    for one in sentinels.sentinels:
        one.ask("SENTINEL", "SET", SERVICE, "quorum", 2)


def test_no_sentinel_answers(cli: Cli) -> None:
    said = cli("doctor", "--store", f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}", status=5).stderr
    assert "no Sentinel names a primary" in said


def test_a_cluster(cli: Cli) -> None:
    site = ClusterSite(*GOOD, binary=str(find_server().path))
    try:
        report = Report(cli, site.url, status=1)  # it was never opened
        assert report.not_ok() == {("opened", "error")}
        assert report["coverage"][1] == "16384 of 16384 slots are served"
        assert sum(each["name"] == "permissions" for each in report.checks) == 3
        report = Report(cli, site.nodes[0].tcp_url, status=1)
        assert report["role"] == ("error", "is a node of a cluster, which has only a part of the partitions")
        assert "redis+cluster://" in cli("serve", "--store", site.nodes[0].tcp_url, status=2).stderr
        site.nodes[0].ask("CLUSTER", "DELSLOTSRANGE", 0, 9)
        report = Report(cli, site.url, status=1)
        assert ("coverage", "error") in report.not_ok()
    finally:
        site.close()
