"""Chaos on replicated stores: three data nodes behind three Sentinels, and a cluster of three shards of two nodes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import redis
from runlease_coordinator.store.keys import partition_keys
from runlease_coordinator.store.server_binary import find_server

from tests.faults.chaos.sites import Fault, Site, duration
from tests.support.clusters import ClusterSite
from tests.support.nodes import Node
from tests.support.redis import RedisServer
from tests.support.sentinels import SentinelSite

#: Longer than any failover that other faults do not hold up.
_FAILOVER_WITHIN_S = 8.0
_DATA = ("appendonly yes", "appendfsync everysec")


def _binary(random: Random) -> str:
    debian = shutil.which("redis-server")
    return debian if debian and random.random() < 0.5 else str(find_server().path)


class SentinelChaos(Site):
    """Two coordinators on three data nodes, W = 1."""

    lossy = True

    def start(self, random: Random) -> None:
        """Start them; whether metrics wait for replicas is up to the seed."""
        self.nodes = SentinelSite(*_DATA, binary=_binary(random))
        self.stack.callback(self.nodes.close)
        self.failovers = 0
        self.bootstrap(self.nodes.url, "--data-nodes", "3")
        durability = random.choice(("local", "replicated"))
        self.serve(self.nodes.url, self.nodes.url, data_nodes=3, flags=("--durability", durability))

    def open_store(self) -> Any:
        """Connect to whom the Sentinels name."""
        return redis.Redis(unix_socket_path=str(self.nodes.primary.socket), socket_timeout=2)

    def store_faults(self) -> Mapping[str, Fault]:
        """Return what can happen to nodes and Sentinels."""
        return {
            "kill primary": lambda random: self._node(self.nodes.primary, self._kill),
            "freeze primary": lambda random: self._node(self.nodes.primary, lambda node: _freeze(node, random)),
            "cut primary off": lambda random: self._node(self.nodes.primary, lambda node: self._cut_off(node, random)),
            "kill replica": lambda random: self._node(random.choice(self.nodes.replicas), self._kill),
            "freeze replica": lambda random: self._node(
                random.choice(self.nodes.replicas), lambda node: _freeze(node, random)
            ),
            "kill sentinel": lambda random: self._sentinel(random, _kill_shortly),
            "freeze sentinel": lambda random: self._sentinel(random, lambda one: _freeze(one, random)),
        }

    def _node(self, node: Node, do: Callable[[Node], None]) -> None:
        with self.alone(f"node {self.nodes.nodes.index(node)}") as free:
            if free:
                before = self.nodes.primary
                self.on_loss()
                do(node)
                self.failovers += self.nodes.primary is not before
                self.on_loss()

    def _sentinel(self, random: Random, do: Callable[[RedisServer], None]) -> None:
        with self.alone("sentinel") as free:  # one at a time: two are the quorum
            if free:
                do(random.choice(self.nodes.sentinels))

    def _kill(self, node: Node) -> None:
        was_primary = self.nodes.primary is node
        node.kill()
        _wait(lambda: not was_primary or self.nodes.primary is not node)
        node.start()

    def _cut_off(self, node: Node, random: Random) -> None:
        self.nodes.cut_off(node)
        time.sleep(random.uniform(0.5, 6.0))
        self.nodes.reconnect(node)

    def heal(self) -> None:
        """Wait until all nodes are in step again: before that no grant is promised."""
        super().heal()
        self.nodes.settle()


class ClusterChaos(Site):
    """Two coordinators on three shards of two nodes, W = 1: a shard takes no control writes while it lacks a node."""

    lossy = True

    def start(self, random: Random) -> None:
        """Start them."""
        self.cluster = ClusterSite(*_DATA, binary=_binary(random), shards=3, replicas=1)
        self.stack.callback(self.cluster.close)
        self.failovers = 0
        self.bootstrap(self.cluster.url, "--data-nodes", "2")
        self.serve(self.cluster.url, self.cluster.url, data_nodes=2)

    def open_store(self) -> Any:
        """Connect to the cluster."""
        return redis.RedisCluster(host="127.0.0.1", port=self.cluster.primaries[0].port, socket_timeout=2)

    def store_faults(self) -> Mapping[str, Fault]:
        """Return what can happen to nodes and slots, one at a time."""
        return {
            "kill primary": self._fault(self._kill_primary),
            "freeze primary": self._fault(lambda random: _freeze(random.choice(self.cluster.primaries), random)),
            "freeze replica": self._fault(self._freeze_replica),
            "move a slot": self._fault(self._move_slot),
        }

    def _fault(self, do: Callable[[Random], None]) -> Fault:
        def fault(random: Random) -> None:
            with self.alone("cluster") as free:
                if free:
                    before = {node.port for node in self.cluster.primaries}
                    self.on_loss()
                    do(random)
                    self.failovers += {node.port for node in self.cluster.primaries} != before
                    self.on_loss()

        return fault

    def _kill_primary(self, random: Random) -> None:
        node = random.choice(self.cluster.primaries)
        node.kill()
        _wait(lambda: len(self.cluster.primaries) == 3)
        node.start()
        self.cluster.settle()

    def _freeze_replica(self, random: Random) -> None:
        replicas = [node for node in self.cluster.nodes if node.role == "slave"]
        _freeze(random.choice(replicas), random)

    def _move_slot(self, random: Random) -> None:
        key = partition_keys(random.choice(self.partitions)).meta
        slot = int(self.cluster.primaries[0].ask("CLUSTER", "KEYSLOT", key))
        source = self.cluster.owner(key)
        target = random.choice([node for node in self.cluster.primaries if node is not source])
        self.cluster.migrate(slot, source, target)

    #: Partitions that are used, so that a slot is moved on which something happens.
    partitions: tuple[int, ...] = (0,)

    def heal(self) -> None:
        """Wait until all nodes are in step again."""
        super().heal()
        self.cluster.settle()


def _freeze(server: RedisServer, random: Random) -> None:
    server.freeze()
    time.sleep(duration(random))
    server.thaw()


def _kill_shortly(server: RedisServer) -> None:
    server.kill()
    time.sleep(0.5)
    server.start()


def _wait(condition: Callable[[], bool]) -> None:
    """Wait for a failover; other faults may hold it up, and then it has to wait for their end."""
    until_s = time.monotonic() + _FAILOVER_WITHIN_S
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.1)
