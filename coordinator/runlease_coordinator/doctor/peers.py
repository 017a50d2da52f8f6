"""Asks those who know where a store's primaries are: Sentinels, or the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from runlease_coordinator.doctor.survey import Sentinels
from runlease_coordinator.store.cluster import Node, nodes_of
from runlease_coordinator.store.refusals import no_primary, why_not
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
            silent[f"{host}:{port}"] = why_not(error)
    if not told:
        raise no_primary(url.service, "; ".join(sorted(set(silent.values()))))
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


def ask_cluster(url: StoreUrl, connect: Callable[[str, int], redis.Redis]) -> list[Node]:
    """Return the primaries that serve slots, as the first node that answers describes them.

    Raises:
        RedisError: no node answers.
    """
    why_not: RedisError | OSError = RedisConnectionError("no node is named")
    for host, port in url.servers:
        try:
            with connect(host, port) as node:
                # The text itself: what redis-py makes of it differs by version, and leaves the epochs out.
                text = node.execute_command("CLUSTER", "NODES")
        except (RedisError, OSError) as error:
            why_not = error
            continue
        tls = url.node(host, port).startswith("rediss:")
        nodes = nodes_of(text, (host, port), tls=tls)
        return sorted((node for node in nodes if node.slots), key=lambda node: node.address)
    raise why_not
