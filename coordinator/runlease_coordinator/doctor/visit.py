"""Visits the servers of a store and writes down what they say: the only module here that does I/O."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from runlease_coordinator.doctor.commands import commands
from runlease_coordinator.doctor.survey import Node, Partition, Shard, Survey, Write
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.settings import redact_url
from runlease_coordinator.store.keys import PARTITIONS, partition_keys

_TIMEOUT_S = 5.0
#: How long a WAIT may take before its replicas count as too slow.
WAIT_TIMEOUT_MS = 1000
#: Seconds after which the key of the probing write goes by itself.
_PROBE_LIVES_S = 10
_LOOKS_AT_CLOCK = 5
#: What the checks read of CONFIG; a server leaves out names that it does not know.
_SETTINGS = (
    *("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory", "maxmemory-policy"),
    *("hash-max-listpack-entries", "hash-max-listpack-value", "stream-node-max-bytes"),
    *("min-replicas-to-write", "repl-backlog-size"),
)
#: Of a partition's meta; not the secret.
_META = ("incarnation", "quarantine_until_us", "quarantine_us", "max_ttl_us", "replicas", "schema")

#: Connects with the store's credentials: to the place of the URL, or to another host and port.
Connect = Callable[..., "redis.Redis"]


def visit(url: str, *, embedded: bool = False, data_nodes: int | None = None) -> Survey:
    """Look at a store.

    Args:
        url: a store's URL.
        embedded: whether a coordinator runs it.
        data_nodes: how many data nodes a shard is to have; None: what the store was opened with.

    Raises:
        Unavailable: it does not answer, or not to this user.
    """
    connect = _connector(url)
    try:
        with connect() as link:
            place = link.connection_pool.connection_kwargs
            address = place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"
            partitions = [_partition(link, number) for number in range(PARTITIONS)]
            survey = Survey(
                kind="embedded" if embedded else "standalone",
                url=redact_url(url),
                shards=[_shard(link, address, connect, data_nodes, partitions)],
                partitions=partitions,
                data_nodes=data_nodes,
            )
    except (RedisError, OSError) as error:
        raise Unavailable("STORE_UNAVAILABLE", f"{redact_url(url)}: {error}") from None
    return survey


def _connector(url: str) -> Connect:
    named = parse_url(url)  # type: ignore[no-untyped-call]
    tls = named.pop("connection_class", None) is SSLConnection
    if "path" in named:
        named["unix_socket_path"] = named.pop("path")

    def connect(host: str = "", port: int = 0) -> redis.Redis:
        place = {name: value for name, value in named.items() if name != "unix_socket_path" or not host}
        if host:
            place |= {"host": host, "port": port}
        own = {"protocol": 2, "decode_responses": True, "retry": Retry(NoBackoff(), 0)}
        timeouts = {"socket_connect_timeout": _TIMEOUT_S, "socket_timeout": _TIMEOUT_S}
        return redis.Redis(**{**place, **own, **timeouts}, ssl=tls)

    return connect


def _shard(
    link: redis.Redis, address: str, connect: Connect, data_nodes: int | None, partitions: list[Partition]
) -> Shard:
    primary = _node(link, address)
    opened_with = max((int(each.meta.get("replicas", 0)) for each in partitions), default=0)
    wanted = data_nodes // 2 if data_nodes is not None else opened_with
    connected = int(primary.info.get("connected_slaves", 0))
    return Shard(
        primary=primary,
        replicas=[_replica(*found, connect) for found in _replicas_of(primary)],
        # Where nothing is to be waited for, half of the replicas that are there show what it would take.
        write=_write(link, wanted or (connected + 1) // 2),
        refused_commands=_refused(link),
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


def _write(link: redis.Redis, replicas: int) -> Write:
    """Write a key that goes by itself, and WAIT behind it on the same connection."""
    with link.client() as alone:  # type: ignore[no-untyped-call]
        began = time.perf_counter()
        try:
            alone.set(partition_keys(0).probe, "1", ex=_PROBE_LIVES_S)
        except ResponseError as error:
            return Write(refused=str(error), waited_for=replicas)
        took_s = time.perf_counter() - began
        if not replicas:
            return Write(took_s=took_s)
        began = time.perf_counter()
        try:
            seen = int(alone.execute_command("WAIT", replicas, WAIT_TIMEOUT_MS))
        except ResponseError as error:
            return Write(refused=str(error), took_s=took_s, waited_for=replicas)
        return Write(took_s=took_s, waited_for=replicas, replicas=seen, wait_s=time.perf_counter() - began)


def _refused(link: redis.Redis) -> list[str] | None:
    script = (resources.files(__package__) / "refused.lua").read_text(encoding="utf-8")
    try:
        return sorted(link.eval(script, 0, json.dumps(commands())))
    except ResponseError as error:
        return ["EVAL"] if "NOPERM" in str(error) or "permission" in str(error) else None


def _partition(link: redis.Redis, number: int) -> Partition:
    meta: dict[str, str] = {}
    with contextlib.suppress(ResponseError):  # a user that may not; `_refused` tells
        found: list[Any] = link.hmget(partition_keys(number).meta, *_META)
        meta = {name: value for name, value in zip(_META, found, strict=True) if value is not None}
    return Partition(number=number, meta=meta)
