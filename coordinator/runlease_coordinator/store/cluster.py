"""A store that is a Redis Cluster: each partition's slot is at one of its nodes, and may move.

All keys of an operation carry the tag of one partition, so whatever is called goes to one node. A node that does not
have the slot says who does and has done nothing, so the call is repeated there.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.connection import Lane, StoreConnection
from runlease_coordinator.store.keys import PARTITIONS, partition_of_key, slot_of
from runlease_coordinator.store.places import Asking, Server, address_of, command, most_of
from runlease_coordinator.store.refusals import REFUSALS, Refusal, unavailable
from runlease_coordinator.storeurl import StoreUrl

log = logging.getLogger(__name__)

Address = tuple[str, int]

#: A call that is sent elsewhere, or is to come again, is repeated so often and behind such pauses.
_PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
#: A new connection is waited for; one that was lost is not.
_CONNECT_S = 1.0
_MOVED = Refusal("has moved this project to another node", 50)


class Cluster:
    """Which node serves which partition, as the nodes say; as a place it is any node that serves one."""

    def __init__(self, url: StoreUrl) -> None:
        """Take the parsed URL.

        Raises:
            ValueError, TypeError: an option is unknown, or cannot be read.
        """
        self.url = url
        self._seeds = [Server(url.node(*address)) for address in url.servers]
        self._known = list(url.servers)
        self._owners: dict[int, Address] = {}
        self._epochs = dict.fromkeys(range(PARTITIONS), -1)
        self._spare: set[Address] = set()
        self._asking = Asking(self._look)
        self._why_not = "not asked yet"

    def owner(self, partition: int) -> Address:
        """Return the node that serves a partition.

        Raises:
            Unavailable: none is known.
        """
        owner = self._owners.get(partition)
        if owner is None:
            raise Unavailable("STORE_UNAVAILABLE", f"no node of the cluster serves this project: {self._why_not}", 500)
        return owner

    @property
    def owners(self) -> set[Address]:
        """All nodes that serve a partition."""
        return set(self._owners.values())

    def has_left(self, address: Address) -> bool:
        """Return whether a node is no primary of this cluster any more."""
        return address not in self.owners and address not in self._spare

    def moved(self, partition: int, address: Address) -> None:
        """Take a node's word that another one serves the partition."""
        self._owners[partition] = address

    async def look(self) -> None:
        """Ask all nodes who serves what; of two that claim a slot, the one with the newer configuration is right."""
        await self._asking()

    async def _look(self) -> None:
        known = [self._ask(Server(self.url.node(*address)), address) for address in self._known]
        answers, self._why_not = await most_of(known)
        if not answers:
            seeds = zip(self._seeds, self.url.servers, strict=True)
            answers, self._why_not = await most_of([self._ask(*seed) for seed in seeds])
        said = [node for answer in answers for node in answer]
        if not said:
            return
        self._known = sorted({node.address for node in said})
        self._spare = {node.address for node in said if node.fit and not node.slots}
        for node in said:
            for partition in node.partitions():
                if node.epoch >= self._epochs[partition]:
                    self._epochs[partition] = node.epoch
                    self._owners[partition] = node.address

    async def _ask(self, server: Server, address: Address) -> list[Node]:
        connection = await server.connect()
        try:
            text = (await command(connection, "CLUSTER", "NODES")).decode()
        finally:
            await connection.disconnect(nowait=True)
        tls = self.url.node(*address).startswith("rediss:")
        return nodes_of(text, address, tls=tls)

    # As a place: wake-ups are published at all nodes, whoever's script does it.

    async def connect(self) -> AbstractConnection:
        """Return a connection to any node."""
        await self.look()
        owners = list(self.owners)
        if not owners:
            raise RedisConnectionError(f"no node of the cluster answers: {self._why_not}")
        return await Server(self.url.node(*random.choice(owners))).connect()

    def left(self, connection: AbstractConnection) -> bool:
        """Return whether its node is no primary any more."""
        return self.has_left(address_of(connection))


@dataclass(frozen=True, slots=True)
class Node:
    """A primary as one of the nodes describes it, or an address at which others can be asked."""

    address: Address
    epoch: int
    slots: Sequence[tuple[int, int]]
    """Of a primary, the first and the last one of each range."""

    fit: bool
    """Whether it is a primary that is not failing."""

    def partitions(self) -> Iterator[int]:
        """Yield the partitions whose slots it serves."""
        for partition in range(PARTITIONS):
            slot = slot_of(partition)
            if any(first <= slot <= last for first, last in self.slots):
                yield partition


def nodes_of(text: str, asked: Address, *, tls: bool) -> list[Node]:
    """Read what a node, which was reached at an address, answers to CLUSTER NODES."""
    return [node for line in text.splitlines() if (node := _node(line.split(), asked, tls=tls))]


def _node(words: list[str], asked: Address, *, tls: bool) -> Node | None:
    """Read a line of CLUSTER NODES: ID, HOST:PORT@BUS[,NAME], flags, primary, ping, pong, epoch, link, slots."""
    _, where, flags, _, _, _, epoch, _, *slots = words
    if {"noaddr", "handshake"} & set(flags.split(",")):
        return None
    where, _, more = where.partition("@")
    host, _, port = where.rpartition(":")
    name = more.split(",")[1] if "," in more else ""
    if tls and name and "=" not in name:  # certificates are issued to names
        host = name
    ranges = [part.partition("-") for part in slots if not part.startswith("[")]
    primary = "master" in flags
    return Node(
        (host or asked[0], int(port)),
        int(epoch),
        [(int(first), int(last or first)) for first, _, last in ranges] if primary else [],
        fit=primary and "fail" not in flags,
    )


class _Place:
    """One node, for as long as it is a primary."""

    def __init__(self, cluster: Cluster, address: Address) -> None:
        self._cluster = cluster
        self._address = address
        self._server = Server(cluster.url.node(*address))

    async def connect(self) -> AbstractConnection:
        await self.look()
        if self._cluster.has_left(self._address):
            raise RedisConnectionError(f"{self._address[0]}:{self._address[1]} is no primary of the cluster any more")
        return await self._server.connect()

    async def look(self) -> None:
        await self._cluster.look()

    def left(self, connection: AbstractConnection) -> bool:
        return self._cluster.has_left(self._address)


class ClusterLane(Lane):
    """One connection a node for one kind of calls."""

    def __init__(self, cluster: Cluster, name: str, replicas: int = 0, *, repeats: bool = True) -> None:
        """Take the cluster, a name for logs, and how many replicas its scripts' writes reach.

        Args:
            cluster: who serves what.
            name: of the kind of calls.
            replicas: see `StoreConnection`.
            repeats: whether a call that is sent elsewhere is repeated. Where the order of calls matters it is not:
                later ones might be there first. Its caller repeats it, with all that came behind.
        """
        super().__init__(replicas)
        self._cluster = cluster
        self._name = name
        self._repeats = repeats
        self._connections: dict[Address, StoreConnection] = {}

    async def start(self, timeout_s: float) -> None:
        """Connect to all nodes.

        Raises:
            Unavailable: a part of the cluster does not answer.
        """
        await self._cluster.look()
        for partition in range(PARTITIONS):
            self._cluster.owner(partition)
        for address in self._cluster.owners:
            await self._connection(address).start(timeout_s)

    async def close(self) -> None:
        """Disconnect; calls in flight fail."""
        while self._connections:
            await self._connections.popitem()[1].close()

    def doubt(self) -> None:
        """Have it looked at again who serves what."""
        for connection in self._connections.values():
            connection.doubt()

    async def everywhere(self, *words: Any) -> list[Any]:
        """Send a command to all nodes that serve a partition; returns their answers."""
        return [await (await self._ready(address)).call(*words) for address in self._cluster.owners]

    async def call(self, *words: Any, replicas: int = 0) -> Any:
        """Send a command to the node that serves its key; see `StoreConnection.call`."""
        partition = partition_of_key(words[3] if words[0] in ("EVALSHA", "EVAL") else words[1])
        asked: Address | None = None
        for pause_s in _PAUSES_S:
            await asyncio.sleep(pause_s)
            address = asked or self._cluster.owner(partition)
            connection = await self._ready(address)
            try:
                return await connection.send(words, replicas, asking=asked is not None)
            except NoScriptError:
                raise
            except ResponseError as error:
                refused = error
            asked = None
            match str(refused).split(" "):
                case ["MOVED", _, where, *_]:
                    self._cluster.moved(partition, _address(where, address))
                    refusal = _MOVED
                case ["ASK", _, where, *_]:
                    asked = _address(where, address)
                    refusal = _MOVED
                case ["TRYAGAIN" | "CLUSTERDOWN" as word, *_]:
                    refusal = REFUSALS[word]
                case _:
                    connection.refuse(refused)
            if not self._repeats:
                break
        connection.doubt()
        raise unavailable(refusal, refused)

    async def _ready(self, address: Address) -> StoreConnection:
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connection(address)
            connection.begin()
            for gone in [one for one in self._connections if one != address and self._cluster.has_left(one)]:
                await self._connections.pop(gone).close()
        await connection.tried(_CONNECT_S)
        return connection

    def _connection(self, address: Address) -> StoreConnection:
        host, port = address
        name = f"{self._name} {host}:{port}"
        connection = self._connections[address] = StoreConnection(_Place(self._cluster, address), name, self._replicas)
        return connection


def _address(where: str, asked: Address) -> Address:
    host, _, port = where.rpartition(":")
    return (host.strip("[]") if host and host != "?" else asked[0], int(port))
