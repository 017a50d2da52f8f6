"""Bounds the bytes of entries that have come in and are on their way to the store."""

from __future__ import annotations

import asyncio

#: Of one stream, as many as the SDK keeps in flight; and of all streams together.
A_STREAM, IN_ALL = 16 << 20, 256 << 20


class Intake:
    """Room for entries; a stream that finds none is not read, and gRPC's flow control holds its client back.

    A stream without an entry on its way may always have one, so that none starves.
    """

    def __init__(self, a_stream: int = A_STREAM, in_all: int = IN_ALL) -> None:
        """Take the bounds in bytes."""
        self._a_stream, self._in_all = a_stream, in_all
        #: What is on its way of all streams, in bytes.
        self.bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def stream(self) -> StreamIntake:
        """Return the room of a stream."""
        return StreamIntake(self)

    def fits(self, held: int, size: int) -> bool:
        """Tell whether a stream that holds so many bytes may have ``size`` more."""
        return not held or (held + size <= self._a_stream and self.bytes + size <= self._in_all)

    async def change(self) -> None:
        """Wait until room comes free."""
        freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(freed)
        try:
            await freed
        finally:
            self._waiting.discard(freed)

    def free(self, size: int) -> None:
        """Give room back."""
        self.bytes -= size
        for freed in self._waiting:
            if not freed.done():
                freed.set_result(None)


class StreamIntake:
    """The room of one stream."""

    def __init__(self, intake: Intake) -> None:
        """Take nothing yet."""
        self._intake = intake
        self._held = 0

    async def enter(self, size: int) -> None:
        """Take room for an entry of so many bytes, once there is some."""
        while not self._intake.fits(self._held, size):
            await self._intake.change()
        self._held += size
        self._intake.bytes += size

    def leave(self, size: int) -> None:
        """Give the room of an entry back."""
        self._held -= size
        self._intake.free(size)
