"""Visits the data nodes of a store and writes down what they say.

This module and `peers.py` do all of the I/O.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from runlease.redaction import redact_url, without_secrets

from runlease_coordinator.doctor.commands import commands
from runlease_coordinator.doctor.peers import ask_cluster, ask_sentinels
from runlease_coordinator.doctor.survey import Node, Partition, Shard, Slots, Survey, Write
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.settings import StartupError
from runlease_coordinator.store.keys import PARTITIONS, partition_keys
from runlease_coordinator.store.refusals import CHECK_URL, why_not
from runlease_coordinator.store.server_binary import PACKING
from runlease_coordinator.store.wire import WAIT_TIMEOUT_S
from runlease_coordinator.storeurl import StoreUrl

_TIMEOUT_S = 5.0
#: Seconds after which the key of the probing write goes by itself.
_PROBE_LIVES_S = 10
_LOOKS_AT_CLOCK = 5
#: What the checks read of CONFIG; a server leaves out names that it does not know.
_SETTINGS = (
    *("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory", "maxmemory-policy"),
    *PACKING,
    *("min-replicas-to-write", "repl-backlog-size"),
)
#: Of a partition's meta; not the secret.
_META = ("incarnation", "quarantine_until_us", "quarantine_us", "max_ttl_us", "replicas", "schema")

#: Connects with the store's credentials to a data node: host and port, or '' and 0 for the place that the URL names.
Connect = Callable[[str, int], "redis.Redis"]


def visit(url: str, *, embedded: bool = False, data_nodes: int | None = None) -> Survey:
    """Look at a store.

    Args:
        url: a store's URL.
        embedded: whether a coordinator runs it.
        data_nodes: how many data nodes a shard is to have; None: what the store was opened with.

    Raises:
        Unavailable: it does not answer, or not to this user.
        StartupError: an option of the URL is unknown, or cannot be read.
    """
    several = StoreUrl.parse(url)
    try:
        connect = _connector(several.node(*several.servers[0]) if several else url)
    except (ValueError, TypeError) as error:  # an option
        raise StartupError(f"--store {redact_url(url)}: {without_secrets(str(error), url)}") from None
    try:
        if several is None:
            shards, partitions = _look({("", 0): range(PARTITIONS)}, connect, data_nodes)
            return Survey(
                kind="embedded" if embedded else "standalone",
                url=redact_url(url),
                shards=shards,
                partitions=partitions,
                data_nodes=data_nodes,
            )
        sentinels = cluster = None
        if several.kind == "sentinel":
            primary, sentinels = ask_sentinels(several, lambda each: _connector(each)("", 0))
            shards, partitions = _look({primary: range(PARTITIONS)}, connect, data_nodes)
        else:
            nodes = ask_cluster(several, connect)
            cluster = Slots(
                served=sum(last - first + 1 for node in nodes if node.fit for first, last in node.slots),
                failing=tuple(f"{host}:{port}" for host, port in (node.address for node in nodes if not node.fit)),
            )
            served = {node.address: list(node.partitions()) for node in nodes if node.fit}
            shards, partitions = _look(served, connect, data_nodes)
        return Survey(
            kind=several.kind,
            url=redact_url(url),
            shards=shards,
            partitions=partitions,
            data_nodes=data_nodes,
            sentinels=sentinels,
            cluster=cluster,
        )
    except (RedisError, OSError) as error:
        why = without_secrets(why_not(error), url)
        message = f"cannot use the store {redact_url(url)}: {why}; {CHECK_URL}"
        raise Unavailable("STORE_UNAVAILABLE", message) from None


def _link(**place: Any) -> redis.Redis:
    own = {"protocol": 2, "decode_responses": True, "retry": Retry(NoBackoff(), 0)}
    timeouts = {"socket_connect_timeout": _TIMEOUT_S, "socket_timeout": _TIMEOUT_S}
    return redis.Redis(**{**place, **own, **timeouts})


def _connector(url: str) -> Connect:
    named = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has no types here
    named["ssl"] = named.pop("connection_class", None) is SSLConnection
    if "path" in named:
        named["unix_socket_path"] = named.pop("path")
    _link(**named).close()  # connects nowhere, but refuses options that it does not know

    def connect(host: str, port: int) -> redis.Redis:
        if not host:
            return _link(**named)
        return _link(**{**named, "unix_socket_path": None, "host": host, "port": port})

    return connect


def _look(
    primaries: Mapping[tuple[str, int], Sequence[int]], connect: Connect, data_nodes: int | None
) -> tuple[list[Shard], list[Partition]]:
    """Return what the shard of each primary is like, and the partitions that it serves."""
    shards, partitions = [], []
    for at, ((host, port), numbers) in enumerate(primaries.items()):
        with connect(host, port) as link:
            own = [_partition(link, number, at) for number in numbers]
            shards.append(_shard(link, connect, data_nodes, own))
            partitions += own
    return shards, partitions


def _shard(link: redis.Redis, connect: Connect, data_nodes: int | None, partitions: Sequence[Partition]) -> Shard:
    place = link.connection_pool.connection_kwargs
    address = place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"
    primary = _node(link, address)
    opened_with = max((int(each.meta.get("replicas", 0)) for each in partitions), default=0)
    wanted = data_nodes // 2 if data_nodes is not None else opened_with
    connected = int(primary.info.get("connected_slaves", 0))
    return Shard(
        primary=primary,
        replicas=[_replica(*found, connect) for found in _replicas_of(primary)],
        # Where nothing is to be waited for, half of the replicas that are there show what it would take.
        write=_write(link, partitions[0].number if partitions else None, wanted or (connected + 1) // 2),
        refused_commands=_refused(link, cluster=bool(primary.info.get("cluster_enabled"))),
    )


def _node(link: redis.Redis, address: str) -> Node:
    info, config = {}, None
    with contextlib.suppress(ResponseError):  # a user that may not; `_refused` tells
        info = link.info() | link.info("commandstats")
    with contextlib.suppress(ResponseError):  # a managed service, or a user that may not
        config = {str(name): str(value) for name, value in link.config_get(*_SETTINGS).items()}
    offset_s, uncertain_s = _clock(link)
    return Node(address=address, info=info, config=config, offset_s=offset_s, uncertain_s=uncertain_s)


def _clock(link: redis.Redis) -> tuple[float, float]:
    """Return TIME minus this machine's clock and by how much that may be wrong: of the quickest answer."""
    found = []
    for _ in range(_LOOKS_AT_CLOCK):
        before = time.time()
        seconds, microseconds = link.time()
        after = time.time()
        found.append(((after - before) / 2, seconds + microseconds / 1e6 - (before + after) / 2))
    uncertain_s, offset_s = min(found)
    return offset_s, uncertain_s


def _replicas_of(primary: Node) -> Iterator[tuple[str, int]]:
    for number in range(int(primary.info.get("connected_slaves", 0))):
        replica = primary.info.get(f"slave{number}")
        if isinstance(replica, dict):
            yield str(replica["ip"]), int(replica["port"])


def _replica(host: str, port: int, connect: Connect) -> Node:
    address = f"{host}:{port}"
    try:
        with connect(host, port) as link:
            return _node(link, address)
    except (RedisError, OSError) as error:
        return Node(address=address, why_not=str(error))


def _write(link: redis.Redis, partition: int | None, replicas: int) -> Write:
    """Write a key that goes by itself, and WAIT behind it on the same connection."""
    if partition is None:  # a shard without a partition: no key of ours belongs there
        return Write()
    with link.client() as alone:  # type: ignore[no-untyped-call]  # nor here
        began = time.perf_counter()
        try:
            alone.set(partition_keys(partition).probe, "1", ex=_PROBE_LIVES_S)
        except ResponseError as error:
            return Write(refused=str(error), waited_for=replicas)
        took_s = time.perf_counter() - began
        if not replicas:
            return Write(took_s=took_s)
        began = time.perf_counter()
        try:
            seen = int(alone.execute_command("WAIT", replicas, int(WAIT_TIMEOUT_S * 1000)))
        except ResponseError as error:
            return Write(refused=str(error), took_s=took_s, waited_for=replicas)
        return Write(took_s=took_s, waited_for=replicas, replicas=seen, wait_s=time.perf_counter() - began)


def _refused(link: redis.Redis, *, cluster: bool) -> list[str] | None:
    script = (resources.files(__package__) / "refused.lua").read_text(encoding="utf-8")
    try:
        return sorted(link.eval(script, 0, json.dumps(commands(cluster=cluster))))
    except ResponseError as error:
        return ["EVAL"] if "NOPERM" in str(error) or "permission" in str(error) else None


def _partition(link: redis.Redis, number: int, shard: int) -> Partition:
    meta: dict[str, str] = {}
    with contextlib.suppress(ResponseError):  # a user that may not; `_refused` tells
        found: list[Any] = link.hmget(partition_keys(number).meta, *_META)
        meta = {name: value for name, value in zip(_META, found, strict=True) if value is not None}
    return Partition(number=number, meta=meta, shard=shard)
