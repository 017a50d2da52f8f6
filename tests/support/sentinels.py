"""Real Sentinels and real clusters on loopback, as small and as quick as they go."""

from __future__ import annotations

import contextlib
from typing import Any

from tests.support.nodes import Node
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, free_port
from tests.support.wait import until

SERVICE = "runs"
#: Sentinels look every 10 s at whom they know, and tell each other every 2 s: a failover would take as long.
_SENTINEL_PERIODS = "info-period 500 publish-period 200 ask-period 200 ping-period 200 tilt-period 2000"


class Sentinel(RedisServer):
    """One Sentinel of the service `SERVICE`; it keeps in its file what it has learnt."""

    def __init__(self, primary: str, *options: str, binary: str, down_after_ms: int) -> None:
        host, _, port = primary.rpartition(":")
        self._options = {"down-after-milliseconds": down_after_ms, "failover-timeout": 5000, "parallel-syncs": 5}
        # It watches with quorum 2 of 3.
        watching = (
            f"sentinel monitor {SERVICE} {host} {port} 2",
            *(f"sentinel {name} {SERVICE} {value}" for name, value in self._options.items()),
        )
        super().__init__(*watching, *options, binary=binary, port=free_port(), flags=("--sentinel",))

    def start(self) -> None:
        super().start()
        self.command("SENTINEL", "DEBUG", *_SENTINEL_PERIODS.split())

    @property
    def primary(self) -> str:
        """HOST:PORT of whom it names."""
        host, port = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return f"{host}:{port}"

    @property
    def epoch(self) -> int:
        """Of the configuration that it goes by: the greater one wins."""
        return int(_pairs(self.ask("SENTINEL", "MASTER", SERVICE))["config-epoch"])

    def watch(self, primary: str) -> None:
        """Forget all, and begin anew with this primary, HOST:PORT."""
        host, _, port = primary.rpartition(":")
        self.ask("SENTINEL", "REMOVE", SERVICE)
        self.ask("SENTINEL", "MONITOR", SERVICE, host, port, 2)
        for name, value in self._options.items():
            self.ask("SENTINEL", "SET", SERVICE, name, value)

    def sees_all(self, nodes: int) -> bool:
        """Whether it knows enough to fail over: each other Sentinel, and each replica as one that is in step."""
        replicas = [_pairs(one) for one in self.ask("SENTINEL", "REPLICAS", SERVICE)]
        up = [one for one in replicas if one["flags"] == "slave" and one["master-link-status"] == "ok"]
        return len(up) == nodes - 1 and len(self.ask("SENTINEL", "SENTINELS", SERVICE)) == 2


class SentinelSite:
    """Data nodes, each with a proxy in front of it that all others know it by, and three Sentinels.

    ``url`` is for coordinators. Tests reach a node that is cut off by its Unix socket, or past its proxy at its port.
    """

    def __init__(
        self,
        *options: str,
        binary: str,
        nodes: int = 3,
        down_after_ms: int = 1000,
        proxied: bool = True,
        of_sentinels: tuple[str, ...] = (),
    ) -> None:
        """Start it; `options` are lines of each data node's configuration, ``of_sentinels`` of each Sentinel's.

        Without proxies (``proxied``) nothing can be cut off, and no byte costs this process anything.
        """
        self._stack = contextlib.ExitStack()
        self.nodes: list[Node] = []
        self.sentinels: list[Sentinel] = []
        self._proxies: list[Proxy] = []
        #: By which all others know each node.
        self._addresses: list[str] = []
        with self._stack:  # which ends all of it, if not all of it starts
            for _ in range(nodes):
                port = free_port()
                address = f"127.0.0.1:{port}"
                if proxied:
                    proxy = Proxy(address)
                    self._stack.callback(proxy.close)
                    self._proxies.append(proxy)
                    address = proxy.address
                self._addresses.append(address)
                announced = f"replica-announce-port {address.rpartition(':')[2]}"
                own = ("replica-announce-ip 127.0.0.1", announced, "repl-timeout 5", "repl-ping-replica-period 1")
                node = Node(*own, *options, binary=binary, port=port)
                self._stack.callback(node.close)
                self.nodes.append(node)
            for node in self.nodes[1:]:
                host, _, at = self._addresses[0].rpartition(":")
                node.ask("REPLICAOF", host, at)
            for _ in range(3):
                sentinel = Sentinel(self._addresses[0], *of_sentinels, binary=binary, down_after_ms=down_after_ms)
                self._stack.callback(sentinel.close)
                self.sentinels.append(sentinel)
            self.settle()
            self._stack = self._stack.pop_all()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(one.address for one in self.sentinels)}/{SERVICE}"

    def proxy(self, node: Node) -> Proxy:
        """Return what stands in front of a node: replicas, Sentinels and coordinators come through it."""
        return self._proxies[self.nodes.index(node)]

    @property
    def primary(self) -> Node:
        """Whom most Sentinels name."""
        named = self._named()
        return self._known(max(named, key=named.count))

    def _named(self) -> list[str]:
        return [one.primary for one in self.sentinels if one.answers]

    def _known(self, address: str) -> Node:
        return self.nodes[self._addresses.index(address)]

    @property
    def replicas(self) -> list[Node]:
        primary = self.primary
        return [node for node in self.nodes if node is not primary]

    def cut_off(self, node: Node) -> None:
        """Reset whatever comes to this node, and refuse it from now on: nobody reaches it but a test at its port."""
        self.proxy(node).cut(for_good=True)

    def reconnect(self, node: Node) -> None:
        self.proxy(node).cut()

    def promoted(self, before: Node) -> Node:
        """Wait until all Sentinels name another primary than `before`, and it takes writes; returns it."""
        known = self._addresses[self.nodes.index(before)]
        until(lambda: known not in (named := self._named()) and len(set(named)) == 1)
        until(lambda: self.primary.role == "master")
        return self.primary

    def failover(self) -> Node:
        """SIGKILL the primary and wait until another one is promoted, which it returns; `start` the old one again."""
        before = self.primary
        before.kill()
        return self.promoted(before)

    def settle(self) -> None:
        """Wait until all nodes are in step, and all Sentinels know it."""
        until(self._settled)

    def _settled(self) -> bool:
        if not all(one.answers for one in self.sentinels):
            return False
        named = self._named()
        if len(set(named)) > 1 and len({one.epoch for one in self.sentinels}) == 1:
            # One was still ending its failover when the others failed back to the primary that it had replaced: it
            # took their epoch, not their primary, and no Sentinel gives way to an equal epoch. An operator has to.
            primary = max(named, key=named.count)
            for one, name in zip(self.sentinels, named, strict=True):
                if name != primary and one.primary == name:
                    one.watch(primary)
        return all(one.sees_all(len(self.nodes)) for one in self.sentinels)

    def close(self) -> None:
        """End all of it."""
        self._stack.close()


def _pairs(flat: Any) -> dict[str, str]:
    """Return what redis-py parsed, or leaves as [name, value, ...] in some versions."""
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
