"""The audit log in the store: reads that follow it without polling."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

from runlease_coordinator.domain.events import Cursor, Event
from runlease_coordinator.store.keys import PARTITIONS, partition_keys, partition_of
from runlease_coordinator.store.store import Store
from runlease_coordinator.store.wakeups import Wakeups

_PAGE = 500
#: A watcher hears of the coordinator at least this often; the store is read only when there is something new.
SIGN_OF_LIFE_S = 5.0
#: Beyond what the store's clock as known here may be ahead.
_MOMENT_MS = 1000


class EventStore:
    """Follows the audit logs of one partition or of all."""

    def __init__(self, store: Store, wakeups: Wakeups) -> None:
        """Take the store and its wake-ups."""
        self._store = store
        self._wakeups = wakeups

    def now(self, project: str) -> Cursor:
        """Return the position of what comes from now on in a project."""
        # Less a millisecond: entries of the present one may have the lowest ID of it.
        return Cursor(f"{self._store.clock_of(project).now_us() // 1000 - 1}-0")

    async def end(self, project: str) -> Cursor:
        """Return the position behind what a project ('': any) has seen so far, exactly.

        Raises:
            Unavailable: the store is away.
        """
        # Of most partitions the last entry is older than a moment ago, and needs no place of its own in the cursor.
        partitions = [partition_of(project)] if project else list(range(PARTITIONS))
        start = f"{min(self._store.clocks[n].now_us() for n in partitions) // 1000 - _MOMENT_MS}-0"
        call = self._store.reads.call
        pages = await asyncio.gather(
            *(call("XREVRANGE", partition_keys(n).events, "+", f"({start}", "COUNT", 1) for n in partitions)
        )
        return Cursor(start, {n: page[0][0].decode() for n, page in zip(partitions, pages, strict=True) if page})

    async def follow(self, project: str, cursor: Cursor) -> AsyncIterator[Event | None]:
        """Yield events behind the cursor, which moves along, for ever; None is a sign of life.

        Args:
            project: only its partition's; '' for all.
            cursor: where to begin.

        Raises:
            Unavailable: the store is away.
        """
        numbers = [partition_of(project)] if project else range(PARTITIONS)
        partitions = {partition_keys(number).events: number for number in numbers}
        with self._wakeups.waiting(tuple(partitions)) as waiter:
            waiter.wake(partitions)  # what came before the cursor's owner
            while True:
                woken_for = waiter.woken_for
                waiter.clear()
                for key in woken_for:
                    async for event in self._read(partitions[key], cursor):
                        yield event
                yield None
                await waiter.sleep(SIGN_OF_LIFE_S)

    async def _read(self, partition: int, cursor: Cursor) -> AsyncIterator[Event]:
        key = partition_keys(partition).events
        while True:
            after = cursor.of(partition)
            page = await self._store.reads.call("XRANGE", key, f"({after}", "+", "COUNT", _PAGE)
            for entry_id, flat in page:
                event = _event(entry_id.decode(), partition, flat)
                cursor.move(partition, event.entry)
                yield event
            if len(page) < _PAGE:
                return


def _event(entry: str, partition: int, flat: Sequence[bytes]) -> Event:
    fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return Event(
        entry=entry,
        partition=partition,
        time_us=int(fields["t"]),
        project=fields["p"],
        canonical_id=fields["r"],
        kind=fields["k"],
        fence=int(fields["f"]),
        attempt=int(fields["a"]),
        details={
            name: json.dumps(value, ensure_ascii=False) for name, value in json.loads(fields["d"] or "{}").items()
        },
    )
