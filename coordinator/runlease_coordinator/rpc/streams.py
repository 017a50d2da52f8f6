"""Bounds on streams, whatever they carry: how many a client may open, and how long it may leave an answer unread."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio

from runlease_coordinator.domain.errors import Overloaded, Unavailable

#: Open streams of one connection, and of all. The SDK has one or two on each of its own.
A_CLIENT, IN_ALL = 4096, 20_000
#: How long a client may leave an answer unread before its stream is ended, and what it holds here goes, in seconds.
UNREAD_S = 60.0
_RETRY_AFTER_MS = 5000


class Streams:
    """Counts the open streams of each connection, and ends those whose clients do not read."""

    def __init__(self, a_client: int = A_CLIENT, in_all: int = IN_ALL, unread_s: float = UNREAD_S) -> None:
        """Take how many streams a connection and all together may have open, and the patience in seconds."""
        self._a_client, self._in_all, self._unread_s = a_client, in_all, unread_s
        self._open: Counter[str] = Counter()
        self._count = 0

    @contextmanager
    def place(self, client: str) -> Iterator[Overloaded | None]:
        """Count a stream until it is over, its last status sent; yields why it may not be opened, None if it may."""
        refusal = self._refusal(client)
        if refusal is not None:
            yield refusal
            return
        self._open[client] += 1
        self._count += 1
        try:
            yield None
        finally:
            self._count -= 1
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _refusal(self, client: str) -> Overloaded | None:
        if self._open[client] >= self._a_client:
            message = f"this connection has {self._a_client} streams open: close some, or open another connection"
        elif self._count >= self._in_all:
            message = f"the coordinator has {self._in_all} streams open: use another one, or start one beside it"
        else:
            return None
        return Overloaded("TOO_MANY_STREAMS", message, _RETRY_AFTER_MS)

    async def send(self, context: grpc.aio.ServicerContext[Any, Any], response: Any) -> None:
        """Send an answer; returns when the client has room for the next.

        Raises:
            Unavailable: it has not read for too long; a client that comes back goes on where it was.
        """
        try:
            async with asyncio.timeout(self._unread_s):
                await context.write(response)
        except TimeoutError:
            message = f"answers were not read for {self._unread_s:g} s: read on, or ask for less"
            raise Unavailable("SLOW_READER", message) from None
