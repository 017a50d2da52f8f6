"""Asks those who know where a store's primaries are: Sentinels, or the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from runlease_coordinator.doctor.survey import Sentinels
from runlease_coordinator.store.keys import partition_keys
from runlease_coordinator.storeurl import StoreUrl

_Address = tuple[str, int]


def ask_sentinels(url: StoreUrl, link: Callable[[str], redis.Redis]) -> tuple[_Address, Sentinels]:
    """Return the primary that the newest configuration names, and what is known of the Sentinels.

    Raises:
        RedisError: none of them names one.
    """
    told: list[Mapping[str, Any]] = []
    silent: dict[str, str] = {}
    for host, port in url.servers:
        try:
            with link(url.sentinel(host, port)) as sentinel:
                told.append(sentinel.sentinel_master(url.service))
        except (RedisError, OSError) as error:
            silent[f"{host}:{port}"] = str(error)
    if not told:
        raise RedisConnectionError(f"no Sentinel names a primary of {url.service}: {'; '.join(silent.values())}")
    newest = max(told, key=lambda facts: int(facts["config-epoch"]))
    sentinels = Sentinels(
        service=url.service,
        quorum=int(newest["quorum"]),
        known=int(newest["num-other-sentinels"]) + 1,
        named=len(url.servers),
        silent=tuple(silent),
        down_after_ms=int(newest["down-after-milliseconds"]),
        flags=str(newest["flags"]),
    )
    return (str(newest["ip"]), int(newest["port"])), sentinels


def ask_cluster(
    url: StoreUrl, connect: Callable[[str, int], redis.Redis]
) -> tuple[list[_Address], Callable[[int], int], dict[str, str]]:
    """Return the primaries, which of them has a partition (-1: none), and CLUSTER INFO.

    Raises:
        RedisError: no node answers.
    """
    why_not: RedisError | OSError = RedisConnectionError("no node is named")
    for host, port in url.servers:
        try:
            with connect(host, port) as node:
                info = {str(name): str(value) for name, value in node.cluster("INFO").items()}
                # In two words: what redis-py makes of the answer differs by version.
                slots = node.execute_command("CLUSTER", "SLOTS")
        except (RedisError, OSError) as error:
            why_not = error
            continue
        ranges = [(int(first), int(last), _heard(primary, host)) for first, last, primary, *_ in slots]
        primaries = sorted({primary for _, _, primary in ranges})
        return primaries, partial(_shard_of, primaries, ranges), info
    raise why_not


def _heard(address: Any, asked: str) -> _Address:
    host, port = address[:2]
    return (host or asked), int(port)  # a node that does not know its own address leaves it out


def _shard_of(primaries: Sequence[_Address], ranges: Sequence[tuple[int, int, _Address]], partition: int) -> int:
    slot = key_slot(partition_keys(partition).meta.encode())
    return next((primaries.index(at) for first, last, at in ranges if first <= slot <= last), -1)
