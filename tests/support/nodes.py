"""Data nodes that follow one another: real servers on loopback ports, promoted by hand."""

from __future__ import annotations

import socket
from typing import Any

from tests.support.clock import WallClock
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, free_port
from tests.support.wait import until


class Node(RedisServer):
    """A data node on a loopback port."""

    def __init__(self, *options: str, binary: str, port: int = 0, clock: WallClock | None = None) -> None:
        # A replica that is to be in step is so at once, not after 5 s; a full sync is what the tests ask for.
        super().__init__("repl-diskless-sync-delay 0", *options, binary=binary, port=port or free_port(), clock=clock)

    @property
    def tcp_url(self) -> str:
        return f"redis://{self.address}"

    def info(self, section: str) -> dict[str, Any]:
        return dict(self.ask("INFO", section))

    @property
    def role(self) -> str:
        return str(self.info("replication")["role"])

    @property
    def replid(self) -> str:
        return str(self.info("replication")["master_replid"])

    @property
    def full_syncs(self) -> int:
        return int(self.info("stats")["sync_full"])

    def follow(self, leader: Node, *, through: Proxy | None = None) -> None:
        """Become a replica of `leader`, also through a proxy in front of it, and be in step."""
        host, _, port = (through.address if through else leader.address).rpartition(":")
        self.ask("REPLICAOF", host, port)
        until(lambda: self.info("replication")["master_link_status"] == "up" and self.replid == leader.replid)
        # Only the acknowledgement of a replica makes the leader count it as online.
        until(lambda: f"port={self.port},state=online" in leader.command("INFO", "replication").decode())

    def promote(self) -> None:
        self.ask("REPLICAOF", "NO", "ONE")

    def write(self, key: str, value: str, replicas: int) -> None:
        """Write, and see WAIT satisfied, on one connection: WAIT means what its own connection wrote."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as link:
            link.sendall(f"SET {key} {value}\r\nWAIT {replicas} 20000\r\n".encode())
            answers = b""
            while answers.count(b"\r\n") < 2:
                answers += link.recv(1024)
        assert answers == f"+OK\r\n:{replicas}\r\n".encode()
