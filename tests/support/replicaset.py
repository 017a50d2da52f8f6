"""Data nodes whose failovers a test does by hand, step by step, with a coordinator beside each if wanted."""

from __future__ import annotations

import contextlib

from runlease_coordinator.store.keys import partition_keys, partition_of

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.redis import RedisServer
from tests.support.wait import until


class ReplicaSet:
    """A primary and its replicas, each of which follows through a proxy of its own."""

    def __init__(self, binary: str, *, max_ttl_s: int, nodes: int = 3, variant: str | None = None) -> None:
        """Start them, opened for leases of up to so many seconds; ``variant``: of all coordinators."""
        self._stack = contextlib.ExitStack()
        self._links: dict[Node, Proxy] = {}
        self._leaders: dict[Node, Node] = {}
        self._flags = ("--data-nodes", str(nodes), "--max-ttl", str(max_ttl_s))
        self._variant = variant
        with self._stack:  # which ends all of it, if not all of it starts
            self.nodes = [self._stack.enter_context(contextlib.closing(Node(binary=binary))) for _ in range(nodes)]
            for replica in self.nodes[1:]:
                self.follow(replica, self.nodes[0])
            bootstrap(self.nodes[0].tcp_url, *self._flags, variant=variant)
            for replica in self.nodes[1:]:
                self._settle(replica)
            self._stack = self._stack.pop_all()

    def serve(self, node: Node, *, address: str | None = None) -> CoordinatorProcess:
        """Start a coordinator that takes this node for the store, whatever becomes of it."""
        one = CoordinatorProcess(*self._flags, "--lock-delay", "0", "--store", node.tcp_url, variant=self._variant)
        if address is not None:
            one.address = address
        self._stack.callback(one.close)
        return one.start()

    def proxy(self, target: str) -> Proxy:
        """Stand in front of an address until the end."""
        proxy = Proxy(target)
        self._stack.callback(proxy.close)
        return proxy

    def follow(self, replica: Node, leader: Node) -> None:
        """Let a node follow another one, and be in step."""
        link = self.proxy(leader.address)
        replica.follow(leader, through=link)
        self._links[replica], self._leaders[replica] = link, leader

    def lag(self, replica: Node) -> None:
        """Let a replica hear nothing of its leader any more, without either seeing that; it has all there is by now."""
        self._settle(replica)
        self._links[replica].stall(TO_CLIENT)

    def _settle(self, replica: Node) -> None:
        """Wait until a replica has all that its leader has; a WAIT may have been satisfied by the others."""
        written = int(self._leaders[replica].info("replication")["master_repl_offset"])

        def is_in_step() -> bool:
            seen = replica.info("replication")
            return seen["master_link_status"] == "up" and int(seen["slave_repl_offset"]) >= written

        until(is_in_step)

    def lose(self, replica: Node) -> None:
        """Let nothing pass between a replica and its leader any more, either way, without either seeing that."""
        self.lag(replica)
        self._links[replica].stall(TO_SERVER)

    def close(self) -> None:
        """End all of it."""
        self._stack.close()


def end_quarantine(server: RedisServer, project: str) -> None:
    """Wait until a server has quarantined a project's partition, and let that be over: its length is not the matter."""
    meta = partition_keys(partition_of(project)).meta
    until(lambda: int(server.ask("HGET", meta, "quarantine_until_us")) > 1)
    server.ask("HSET", meta, "quarantine_until_us", "1")
