"""What the model takes for granted of replication IDs and full syncs, on real Redis and Valkey."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator

import pytest
from runlease_coordinator.store.server_binary import find_server

from tests.support.redis import RedisServer, free_port
from tests.support.wait import until


class Node(RedisServer):
    """A data node on a loopback port."""

    def __init__(self, binary: str) -> None:
        self.port = free_port()
        super().__init__("repl-diskless-sync-delay 0", binary=binary, port=self.port)

    def shows(self, section: str, name: str) -> str:
        """Return one line of INFO."""
        found = re.search(rf"^{name}:(.*)\r$", self.command("INFO", section).decode(), re.MULTILINE)
        return found[1] if found else ""

    @property
    def replid(self) -> str:
        return self.shows("replication", "master_replid")

    @property
    def full_syncs(self) -> int:
        return int(self.shows("stats", "sync_full"))

    @property
    def fence(self) -> bytes:
        return self.command("GET", "fence").split(b"\r\n")[1]

    def follow(self, leader: Node) -> None:
        self.command("REPLICAOF", "127.0.0.1", str(leader.port))
        until(lambda: self.shows("replication", "master_link_status") == "up" and self.replid == leader.replid)

    def promote(self) -> None:
        self.command("REPLICAOF", "NO", "ONE")

    def write(self, fence: str, replicas: int) -> None:
        """Write, and see WAIT satisfied, on one connection: WAIT means what its own connection wrote."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as link:
            link.sendall(f"SET fence {fence}\r\nWAIT {replicas} 20000\r\n".encode())
            answers = b""
            while answers.count(b"\r\n") < 2:
                answers += link.recv(1024)
        assert answers == f"+OK\r\n:{replicas}\r\n".encode()


@pytest.fixture(params=["valkey", "redis"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    """A primary and two replicas in step."""
    binary = request.getfixturevalue("redis_binary") if request.param == "redis" else str(find_server().path)
    started: list[Node] = []
    try:
        for _ in range(3):
            started.append(Node(binary))
        for replica in started[1:]:
            replica.follow(started[0])
        yield started
    finally:
        for node in started:
            node.process.send_signal(signal.SIGCONT)
            node.close()


def test_a_promotion_changes_the_replid_also_of_a_server_that_comes_back(nodes: list[Node]) -> None:
    first, second, third = nodes
    opened = first.replid
    second.promote()
    third.follow(second)
    first.follow(second)
    first.promote()
    assert len({opened, second.replid, first.replid}) == 3


def test_a_primary_that_was_never_demoted_keeps_its_replid_and_only_full_syncs_show_the_loss(nodes: list[Node]) -> None:
    first, second, third = nodes
    first.write("100", replicas=2)
    opened, full_syncs = first.replid, first.full_syncs
    # Given a frozen primary, and another one that acknowledges a grant with a replica,
    first.process.send_signal(signal.SIGSTOP)
    second.promote()
    third.follow(second)
    second.write("200", replicas=1)
    # when the first one is named again,
    first.process.send_signal(signal.SIGCONT)
    first.promote()
    third.follow(first)
    # then the grant is lost, W replicas are there, and the replid is the old one.
    assert (first.fence, third.fence) == (b"100", b"100")
    assert first.replid == opened
    assert first.full_syncs > full_syncs
