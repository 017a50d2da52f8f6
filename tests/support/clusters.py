"""Real clusters on loopback: made, failed over, and their slots moved, from Python."""

from __future__ import annotations

import contextlib

from tests.support.nodes import Node
from tests.support.redis import free_port
from tests.support.wait import until

SLOTS = 16384
#: After this long without an answer a node is failing; a replica is promoted about a second later.
_NODE_TIMEOUT_MS = 1500


class ClusterNode(Node):
    """One node; the bus has a port of its own, since others' default (port + 10000) may be no port."""

    def __init__(self, *options: str, binary: str) -> None:
        self.bus_port = free_port()
        own = ("cluster-enabled yes", f"cluster-port {self.bus_port}", f"cluster-node-timeout {_NODE_TIMEOUT_MS}")
        # Replicas vote also for one whose link was down for a while, and a shard may be left with none.
        super().__init__(*own, "cluster-replica-validity-factor 0", *options, binary=binary)
        self.id = str(self.ask("CLUSTER", "MYID"))

    @property
    def slots(self) -> list[tuple[int, int]]:
        """The ranges of slots that it serves."""
        myself = next(line for line in self.command("CLUSTER", "NODES").decode().splitlines() if "myself" in line)
        ranges = [part.partition("-") for part in myself.split()[8:] if not part.startswith("[")]
        return [(int(first), int(last or first)) for first, _, last in ranges]


class ClusterSite:
    """Shards of one primary and its replicas; ``url`` is for coordinators."""

    def __init__(self, *options: str, binary: str, shards: int = 3, replicas: int = 0) -> None:
        """Start it; `options` are lines of each node's configuration."""
        self._stack = contextlib.ExitStack()
        self.nodes: list[ClusterNode] = []
        with self._stack:  # which ends all of it, if not all of it starts
            for _ in range(shards * (1 + replicas)):
                node = ClusterNode(*options, binary=binary)
                self._stack.callback(node.close)
                self.nodes.append(node)
            self._make(shards)
            self._stack = self._stack.pop_all()

    def _make(self, shards: int) -> None:
        first, primaries = self.nodes[0], self.nodes[:shards]
        for number, node in enumerate(primaries):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // shards, (number + 1) * SLOTS // shards - 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)
        until(lambda: all(self._knows_all(node) for node in self.nodes))
        for number, node in enumerate(self.nodes[shards:]):
            node.ask("CLUSTER", "REPLICATE", primaries[number % shards].id)
        self.settle()

    def _knows_all(self, node: ClusterNode) -> bool:
        lines = node.command("CLUSTER", "NODES").decode().splitlines()
        return sum(" connected" in line and "handshake" not in line for line in lines) == len(self.nodes)

    def settle(self) -> None:
        """Wait until every node that lives serves all slots, and every replica is in step."""
        until(lambda: all(self._is_well(node) for node in self.nodes if node.answers))

    def _is_well(self, node: ClusterNode) -> bool:
        if "cluster_state:ok" not in node.command("CLUSTER", "INFO").decode():
            return False
        replication = node.info("replication")
        return replication["role"] == "master" or replication["master_link_status"] == "up"

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @property
    def primaries(self) -> list[ClusterNode]:
        """The live nodes that serve slots, by their first slot."""
        live = [node for node in self.nodes if node.answers and node.role == "master" and node.slots]
        return sorted(live, key=lambda node: node.slots)

    def owner(self, key: str) -> ClusterNode:
        """Return the primary that serves a key."""
        slot = int(self.primaries[0].ask("CLUSTER", "KEYSLOT", key))
        return next(node for node in self.primaries if any(a <= slot <= b for a, b in node.slots))

    def replicas_of(self, primary: ClusterNode) -> list[ClusterNode]:
        return [
            node
            for node in self.nodes
            if node.answers and str(node.info("replication").get("master_port")) == str(primary.port)
        ]

    def failover(self, primary: ClusterNode, *, freeze: bool = False) -> ClusterNode:
        """SIGKILL (or SIGSTOP) a primary and wait until a replica serves its slots; returns that one."""
        heirs, slots = self.replicas_of(primary), primary.slots
        if freeze:
            primary.freeze()
        else:
            primary.kill()
        until(lambda: any(node.slots == slots for node in heirs))
        self.settle()
        return next(node for node in heirs if node.slots == slots)

    def begin_migration(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Open a slot for its move: from now on `source` answers -ASK for keys that it does not have (any more)."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, source: ClusterNode, target: ClusterNode, most: int = 1000) -> int:
        """Move up to `most` keys of an open slot; returns how many."""
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def finish_migration(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Tell the new owner first, so that none says -MOVED to one that does not know yet."""
        for node in (target, source, *(one for one in self.primaries if one not in (source, target))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def migrate(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move one slot key by key, as `redis-cli --cluster reshard` does."""
        self.begin_migration(slot, source, target)
        while self.move_keys(slot, source, target):
            pass
        self.finish_migration(slot, source, target)

    def close(self) -> None:
        """End all of it."""
        self._stack.close()
