"""That faults do what their names say: a suite whose faults do nothing passes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from runlease_coordinator.store.server_binary import find_server

from tests.support.clock import WallClock
from tests.support.clusters import ClusterSite
from tests.support.nodes import Node
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.sentinels import SentinelSite
from tests.support.wait import until


@pytest.fixture
def node() -> Iterator[Node]:
    with contextlib.closing(Node(binary=str(find_server().path))) as node:
        yield node


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(node.address)) as proxy:
        yield proxy


def ask(proxy: Proxy, command: str, timeout_s: float = 10.0) -> bytes:
    """Send a command; returns what comes back before the connection ends, or an answer is complete."""
    host, _, port = proxy.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as link:
        link.sendall(f"{command}\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n") and (part := link.recv(65536)):
            answer += part
        return answer


def test_a_connection_that_is_cut_at_its_reply_did_what_was_asked(node: Node, proxy: Proxy) -> None:
    proxy.cut_at_reply()
    with contextlib.suppress(ConnectionError):
        assert ask(proxy, "SET key 1") == b""
    assert node.ask("GET", "key") == "1"
    assert ask(proxy, "SET key 2") == b"+OK\r\n"


@pytest.mark.parametrize(("way", "arrives"), [(TO_SERVER, None), (TO_CLIENT, "1")])
def test_one_way_loss(node: Node, proxy: Proxy, way: str, arrives: str | None) -> None:
    proxy.drop(way)
    with pytest.raises(TimeoutError):
        ask(proxy, "SET key 1", timeout_s=0.3)
    assert node.ask("GET", "key") == arrives
    proxy.cut()
    assert ask(proxy, "SET key 2") == b"+OK\r\n"


@pytest.mark.parametrize(
    ("slow", "least_s"),
    [(lambda proxy: proxy.drip(TO_CLIENT, 500), 0.2), (lambda proxy: proxy.delay(TO_SERVER, 0.2), 0.2)],
    ids=["drip", "delay"],
)
def test_a_slow_connection_loses_nothing(
    node: Node, proxy: Proxy, slow: Callable[[Proxy], None], least_s: float
) -> None:
    node.ask("SET", "key", "x" * 200)
    slow(proxy)
    started = time.monotonic()
    assert ask(proxy, "GET key") == b"$200\r\n" + b"x" * 200 + b"\r\n"
    assert time.monotonic() - started >= least_s


def test_a_stalled_direction_goes_on(node: Node, proxy: Proxy) -> None:
    proxy.stall(TO_SERVER)
    timer = threading.Timer(0.2, proxy.flow, (TO_SERVER,))
    timer.start()
    started = time.monotonic()
    assert ask(proxy, "SET key 1") == b"+OK\r\n"
    assert time.monotonic() - started >= 0.2
    timer.join()


def test_a_store_clock_steps_while_the_server_runs(wall_clock: WallClock) -> None:
    with contextlib.closing(Node(binary=str(find_server().path), clock=wall_clock)) as node:

        def ahead_s() -> float:
            seconds, microseconds = node.ask("EVAL", "return redis.call('TIME')", 0)
            return int(seconds) + int(microseconds) / 1e6 - time.time()

        for step_s in (60, -60, 0):
            wall_clock.set(step_s)
            # Once the old time was still told just behind the step.
            until(lambda step_s=step_s: ahead_s() == pytest.approx(step_s, abs=5))


def test_sentinels_fail_over_from_a_primary_that_is_frozen_or_cut_off(redis_binary: str) -> None:
    with contextlib.closing(SentinelSite(binary=redis_binary)) as site:
        frozen = site.primary
        frozen.freeze()
        cut_off = site.promoted(frozen)
        frozen.thaw()
        site.settle()
        site.cut_off(cut_off)
        last = site.promoted(cut_off)
        assert cut_off.role == "master"  # nobody can tell it
        site.reconnect(cut_off)
        site.settle()
        assert [node.role for node in site.nodes] == ["master" if node is last else "slave" for node in site.nodes]


def test_a_cluster_fails_over_and_moves_slots(any_binary: str) -> None:
    with contextlib.closing(ClusterSite(binary=any_binary, replicas=1)) as site:
        source, target = site.owner("{tag}"), next(node for node in site.primaries if node is not site.owner("{tag}"))
        source.ask("SET", "{tag}", "1")
        site.migrate(int(source.ask("CLUSTER", "KEYSLOT", "tag")), source, target)
        assert site.owner("{tag}") is target
        heir = site.failover(target)
        assert site.owner("{tag}") is heir
        assert heir.ask("GET", "{tag}") == "1"
        target.start()
        site.settle()
        assert target.role == "slave"
