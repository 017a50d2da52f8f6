"""The look at all partitions that each coordinator takes each second."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.exceptions import RedisError

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.keys import PARTITIONS, partition_keys, run_keys
from runlease_coordinator.store.store import Store

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0
#: Expired runs that one sweep of a partition turns over at most.
_AT_MOST = 500
#: Ends of one quarantine that were computed from several answers differ by less than this, in seconds.
_SAME_END_S = 1.0
#: Said by the connection already.
_AWAY = "STORE_UNAVAILABLE"


class Sweeper:
    """Turns expired runs into crashed ones, and starts a quarantine within a second though nobody calls.

    The look is a script like all others, so its gate sees what has become of the store. What it finds is logged once.
    """

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store
        #: Until when partitions are quarantined, in seconds of `time.monotonic`.
        self._quarantines: dict[int, float] = {}
        #: Why partitions take nothing now, by reason.
        self._refusals: dict[str, str] = {}

    async def run_forever(self) -> None:
        """Sweep each second."""
        while True:
            try:
                if expired := await self.sweep():
                    log.info("expired leases: %d", expired)
            except RedisError as error:
                log.warning("no sweep: %s", error)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> int:
        """Look at all partitions; returns how many expired runs are crashed now.

        What refuses does not keep the others from being swept.
        """
        refusals: dict[str, str] = {}
        quarantines: dict[int, float] = {}
        expired = sum(
            await asyncio.gather(*(self._sweep(number, quarantines, refusals) for number in range(PARTITIONS)))
        )
        self._tell_refusals(refusals)
        self._tell_quarantines(quarantines)
        return expired

    async def _sweep(self, number: int, quarantines: dict[int, float], refusals: dict[str, str]) -> int:
        partition, store = partition_keys(number), self._store
        expired = 0
        try:
            # Among the reads, which never wait for replicas: those who acquire and renew are not held up.
            _, (left, *due) = await store.run("due", (partition.meta, partition.live), (_AT_MOST,), on=store.reads)
            if int(left):
                quarantines[number] = time.monotonic() + int(left) / 1e6
            for member in due:
                project, _, run_id = member.decode().partition("/")
                keys = run_keys(project, run_id)
                verdict, _ = await store.run(
                    "expire",
                    (partition.meta, keys.run, keys.attempts, partition.live, keys.runs, partition.events),
                    (project, run_id),
                )
                expired += verdict == "EXPIRED"
        except Unavailable as error:
            refusals.setdefault(error.reason, str(error))
            if number in self._quarantines:  # it has not ended for that
                quarantines.setdefault(number, self._quarantines[number])
        return expired

    def _tell_refusals(self, found: dict[str, str]) -> None:
        known, self._refusals = self._refusals, found
        for reason in found.keys() - known.keys() - {_AWAY}:
            log.warning("the store takes nothing: %s", found[reason])
        if known.keys() - {_AWAY} and not found:
            log.info("the store takes everything again")

    def _tell_quarantines(self, found: dict[int, float]) -> None:
        known, self._quarantines = self._quarantines, found
        begun = [number for number, until in found.items() if until > known.get(number, 0) + _SAME_END_S]
        if begun:
            log.warning(
                "the store was restarted or failed over, or has lost data: "
                "no grants in %d of %d partitions for %.1f s, while holders go on",
                len(begun),
                PARTITIONS,
                max(found[number] for number in begun) - time.monotonic(),
            )
        if ended := known.keys() - found.keys():
            log.info("the quarantine of %d partitions is over: they grant again", len(ended))
