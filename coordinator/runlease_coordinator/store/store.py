"""The store: three lanes to it, the scripts, and its clock as far as the coordinator knows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from secrets import token_hex
from typing import Any, Literal, NamedTuple

from runlease.clock import suspend_aware

from runlease_coordinator.domain.errors import Unavailable, Unconfirmed
from runlease_coordinator.store.clock import ClockGuard, StoreClock
from runlease_coordinator.store.cluster import Cluster, ClusterLane
from runlease_coordinator.store.connection import Lane, StoreConnection
from runlease_coordinator.store.keys import PARTITIONS, SCHEMA_VERSION, partition_keys, partition_of, partition_of_key
from runlease_coordinator.store.places import Place, Primary, Server
from runlease_coordinator.store.scripts import scripts
from runlease_coordinator.storeurl import StoreUrl

log = logging.getLogger(__name__)


Opening = Literal["new", "lost", "embedded"]


class Terms(NamedTuple):
    """What a store was opened for: the longest lease, in microseconds, and the replicas that its writes must reach."""

    max_ttl_us: int
    replicas: int


class Store:
    """Runs scripts; control calls, metrics and reads each have connections, so none waits behind another's bulk.

    Control calls are answered once ``replicas`` replicas have what they wrote; reads never wait for that.
    """

    def __init__(self, url: str, *, replicas: int = 0, replicates_metrics: bool = False) -> None:
        """Take the URL of a server, of Sentinels or of a cluster; `start` connects.

        Args:
            url: of the store.
            replicas: how many of them a control write must reach before it is answered.
            replicates_metrics: whether metrics must, too.

        Raises:
            ValueError, TypeError: an option of the URL is unknown, or cannot be read.
        """
        #: By partition: those of a cluster lie on servers whose clocks differ, and move between them.
        self.clocks = [StoreClock() for _ in range(PARTITIONS)]
        self.replicas = replicas
        #: Whether an entry of a log that matters as much as a lease must be repeated as a control call.
        self.repeats_marks = replicas > 0 and not replicates_metrics
        on_metrics = replicas if replicates_metrics else 0
        several = StoreUrl.parse(url)
        self.is_cluster = several is not None and several.kind == "cluster"
        #: Where it is, for those who listen to it.
        self.place: Place
        self.control: Lane
        self.metrics: Lane
        self.reads: Lane
        if several is not None and self.is_cluster:
            self.place = cluster = Cluster(several)
            self.control = ClusterLane(cluster, "control", replicas)
            # Entries of a log must not overtake each other on a detour.
            self.metrics = ClusterLane(cluster, "metrics", on_metrics, repeats=False)
            self.reads = ClusterLane(cluster, "reads")
        else:
            self.place = place = Primary(several) if several else Server(url)
            self.control = StoreConnection(place, "control", replicas)
            self.metrics = StoreConnection(place, "metrics", on_metrics)
            self.reads = StoreConnection(place, "reads")
        self._scripts = scripts()
        self._guards = [ClockGuard() for _ in range(PARTITIONS)]

    async def start(self, timeout_s: float = 5.0) -> None:
        """Connect.

        Raises:
            Unavailable: not connected in time.
        """
        for lane in (self.control, self.metrics, self.reads):
            await lane.start(timeout_s)
        times = [int(seconds) * 1_000_000 + int(us) for seconds, us in await self.control.everywhere("TIME")]
        for clock in self.clocks:  # the first answer of each partition says it exactly
            clock.observe(min(times))
        await self._learn_longest_ttl()

    async def _learn_longest_ttl(self) -> None:
        longest_ttl_us = await self.control.call("HGET", partition_keys(0).meta, "max_ttl_us")
        for guard in self._guards:
            guard.window_s = int(longest_ttl_us or 0) / 1e6  # not opened yet: there are no leases

    def clock_of(self, project: str) -> StoreClock:
        """Return the clock of a project's partition."""
        return self.clocks[partition_of(project)]

    async def close(self) -> None:
        """Disconnect."""
        for lane in (self.control, self.metrics, self.reads):
            await lane.close()

    async def run(
        self, name: str, keys: tuple[str, ...], args: tuple[Any, ...] = (), *, on: Lane | None = None
    ) -> tuple[str, Sequence[Any]]:
        """Run an operation; returns its verdict and what comes behind verdict and store time.

        Raises:
            Unavailable: the store is away, was never opened, lacks replicas, is in quarantine, or had the request too
                long; `Unconfirmed`: it has lost data since the fence that the operation names was confirmed.
        """
        sent_at = suspend_aware()
        answer = await (on or self.control).run(self._scripts[name], keys, args)
        verdict = answer[0].decode()
        if len(answer) > 1:
            now_us, partition = int(answer[1]), partition_of_key(keys[0])
            self.clocks[partition].observe(now_us)
            self._guards[partition].observe(now_us, sent_at)
        match verdict:
            case "UNBOOTSTRAPPED":
                lost = "this store was never opened, or has lost its data: run `runlease bootstrap --lost-data`"
                raise Unavailable(verdict, lost, 5000)
            case "QUARANTINE":
                left_ms = int(answer[2]) // 1000 + 1
                raise Unavailable(
                    verdict,
                    f"the store was restarted, failed over or put its clock on: no grants for {left_ms / 1000:.1f} s",
                    left_ms,
                )
            case "UNCONFIRMED":
                raise Unconfirmed(answer[2].decode())
            case "TOO_OLD":
                raise Unavailable("REQUEST_TOO_OLD", "the request waited for the store for over 30 s: repeat it")
        return verdict, answer[2:]

    def believable_us(self, meta: str) -> int:
        """Return the latest TIME to believe now in the partition of ``meta``."""
        return self._guards[partition_of_key(meta)].latest_us(suspend_aware())

    async def judge_clock(self, meta: str) -> None:
        """Find out why a request met a TIME beyond belief: it was slow, or the clock stepped: then quarantine starts.

        Raises:
            Unavailable: QUARANTINE, since the clock stepped; or the store is away.
        """
        await self.run("quarantine", (meta,), ("",))
        told_us = self.clocks[partition_of_key(meta)].seen_us
        latest_us = self.believable_us(meta)  # after the answer: its way does not count
        if told_us > latest_us:
            log.warning(
                "the store's clock is %.3f s ahead of what it can be: no grants in %s until all leases that it may "
                "have shortened have ended; keep the clocks of its machines in step",
                (told_us - latest_us) / 1e6,
                meta,
            )
            await self.run("quarantine", (meta,), (latest_us,))

    async def shared_secret(self) -> bytes:
        """Return the secret that the coordinators of this store share; the first one makes it."""
        meta = partition_keys(0).meta
        # Read first: a store without memory refuses to write, and must not keep a coordinator from renewing leases.
        secret: bytes | None = await self.control.call("HGET", meta, "secret")
        if secret is None:
            await self.control.call("HSETNX", meta, "secret", token_hex(32), replicas=self.replicas)
            secret = await self.control.call("HGET", meta, "secret")
        assert secret is not None
        return secret

    async def resolve_auto(self, project: str, auto_keys: Sequence[str]) -> tuple[str, str]:
        """Return the first of a job's automatic keys that is bound, and its run; '' where none is."""
        partition = partition_keys(partition_of(project))
        _, (key, run_id) = await self.run("resolve_auto", (partition.meta, partition.auto(project)), tuple(auto_keys))
        return key.decode(), run_id.decode()

    async def bootstrap(
        self, how: Opening, *, max_ttl_us: int | None, replicas: int | None, default_max_ttl_us: int = 0
    ) -> tuple[int, int]:
        """Open all partitions, or change what they were opened for; returns how many were opened, and changed.

        Args:
            how: what the store is.
            max_ttl_us: the longest lease that may exist; None: as it is, ``default_max_ttl_us`` in a new one.
            replicas: how many of them a control write must reach; None: as it is, 0 in a new one.
            default_max_ttl_us: see ``max_ttl_us``.
        """
        given = ("" if value is None else value for value in (max_ttl_us, replicas))
        args = (*given, default_max_ttl_us, SCHEMA_VERSION, how)
        verdicts = [
            (await self.run("bootstrap", (partition_keys(number).meta,), args))[0] for number in range(PARTITIONS)
        ]
        await self._learn_longest_ttl()
        return verdicts.count("OPENED"), verdicts.count("CHANGED")

    async def terms(self) -> set[Terms | None]:
        """Return what the partitions were opened for (None: never): one value, if all is well."""
        fields = ("max_ttl_us", "replicas")
        metas = [await self.reads.call("HMGET", partition_keys(n).meta, *fields) for n in range(PARTITIONS)]
        return {None if ttl is None else Terms(int(ttl), int(replicas or 0)) for ttl, replicas in metas}

    async def infos(self, section: str) -> list[dict[str, str]]:
        """Return one section of INFO of each server that has a part of the store."""
        texts = [text.decode() for text in await self.control.everywhere("INFO", section)]
        return [dict(line.split(":", 1) for line in text.splitlines() if ":" in line) for text in texts]
