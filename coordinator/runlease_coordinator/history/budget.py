"""Bounds what reads of histories hold in memory together: others wait for room, and are refused after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from runlease_coordinator.domain.errors import Overloaded
from runlease_coordinator.domain.metrics import Batch

#: How long a read waits for room, in seconds, before its caller is told to come back.
_PATIENCE_S = 20.0
_RETRY_AFTER_MS = 2000
#: Of a batch besides its numbers: small ones weigh more than what is in them.
_BATCH_BYTES = 400


class Share:
    """What one read holds."""

    def __init__(self, budget: ReadBudget) -> None:
        """Hold nothing yet."""
        self._budget = budget
        self.bytes = 0

    async def take(self, size: int) -> None:
        """Count so many bytes, once there is room for them.

        Raises:
            Overloaded: none came free in time.
        """
        await self._budget.room(self, size)
        self.bytes += size
        self._budget.taken += size

    def give_back(self, size: int) -> None:
        """Say that so many bytes are needed no more."""
        self.bytes -= size
        self._budget.tell()


class ReadBudget:
    """Hands out room to reads, in bytes of decoded points.

    The oldest read always goes on, however large it is: so a single history may be larger than the bound, no two reads
    wait for each other, and all of them hold the bound at most, and what the oldest has beyond it.
    """

    def __init__(self, most_bytes: int = 512 << 20, *, patience_s: float = _PATIENCE_S) -> None:
        """Take the bound in bytes, and how long a read waits for room, in seconds."""
        self._most_bytes, self._patience_s = most_bytes, patience_s
        self._open: list[Share] = []  # oldest first
        self._waiting: set[asyncio.Future[None]] = set()
        #: All that was ever taken, in bytes.
        self.taken = 0

    @property
    def bytes(self) -> int:
        """What all reads hold now."""
        return sum(share.bytes for share in self._open)

    @property
    def waiting(self) -> int:
        """How many reads wait for room."""
        return len(self._waiting)

    @contextmanager
    def read(self) -> Iterator[Share]:
        """Open a read."""
        share = Share(self)
        self._open.append(share)
        try:
            yield share
        finally:
            self._open.remove(share)
            self.tell()

    async def room(self, share: Share, size: int) -> None:
        """Wait until a read may hold so many bytes more.

        Raises:
            Overloaded: it waited for too long.
        """

        def fits() -> bool:
            return self._open[0] is share or self.bytes + size <= self._most_bytes

        try:
            async with asyncio.timeout(self._patience_s):
                while not fits():
                    await self._told()
        except TimeoutError:
            message = (
                f"too many reads of histories at once ({len(self._open)}, {self.bytes >> 20} MiB of points): "
                "try again, ask for fewer keys or steps, or give the coordinator more with --read-bytes"
            )
            raise Overloaded("TOO_MANY_READS", message, _RETRY_AFTER_MS) from None

    def tell(self) -> None:
        """Let those who wait look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _told(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


def size_of(batches: Iterable[Batch]) -> int:
    """Return what batches take, in bytes, at most: columns that share their steps count them each."""
    return sum(_BATCH_BYTES + b.steps.nbytes + b.times.nbytes + b.values.nbytes for b in batches)
