"""The bytes of one store connection: commands out, answers to their callers' futures.

redis-py connects and logs in (URLs, TLS, ACL users, database numbers are its own); from then on a connection is this
protocol, because its tasks, locks and timers around each answer cost more than the answer's own work (see
tests/bench/README.md).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

Future = asyncio.Future[Any]


class Wire(asyncio.Protocol):
    """Sends in batches, one at a time: what is called while one is on its way goes with the next.

    The store syncs once for all that it has read; more small writes meanwhile would only cost both sides a wake-up
    each (measured: a sixth of the throughput of leases). Answers settle the futures in the order of the commands.
    """

    def __init__(self) -> None:
        """Be ready to take over a connection."""
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._queue: list[tuple[bytes, Future]] = []
        self._in_flight: deque[Future] = deque()
        self._heard_at = 0.0
        self._flushing = False
        self._transport: asyncio.Transport
        #: Done once the connection is lost; holds the reason.
        self.lost: asyncio.Future[RedisConnectionError] = self._loop.create_future()

    def take_over(self, connection: AbstractConnection) -> None:
        """Become the protocol of a connection that waits for no answer."""
        writer = connection._writer  # it offers no other way
        assert writer is not None
        self._transport = cast(asyncio.Transport, writer.transport)
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.connection_lost(None)

    def send(self, command: tuple[Any, ...]) -> Future:
        """Queue a command of str, bytes, int or float; returns the future of its answer."""
        packed = hiredis.pack_command(command)
        future: Future = self._loop.create_future()
        self._queue.append((packed, future))
        self._arm()
        return future

    def silent_s(self) -> float:
        """Return for how long an answer that is due has not come, in seconds."""
        return time.monotonic() - self._heard_at if self._in_flight else 0.0

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Settle everything that is not answered with an error of its own each."""
        pending = [*self._in_flight, *(future for _, future in self._queue)]
        self._queue.clear()
        self._in_flight.clear()
        for future in pending:
            if not future.done():
                future.set_exception(error())

    def _arm(self) -> None:
        # At the end of the turn, so that all calls of the turn share the batch.
        if not self._flushing and not self._in_flight:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self._queue or self.lost.done():
            return
        packed, futures = zip(*self._queue, strict=True)
        self._queue.clear()
        self._in_flight.extend(futures)
        self._heard_at = time.monotonic()
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Settle the futures of the answers in it."""
        self._heard_at = time.monotonic()
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:  # scripts and commands in use answer no booleans
                future = self._in_flight.popleft()
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(answer, hiredis.ReplyError):
                    future.set_exception(_refusal(str(answer)))
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self._end(f"not the protocol that was expected: {error}")
            self._transport.abort()
        if self._queue:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the connection is gone."""
        self._end(f"lost: {exc}" if exc else "closed by the store")

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(RedisConnectionError(why))


def _refusal(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
