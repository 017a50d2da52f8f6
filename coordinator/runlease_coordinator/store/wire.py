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
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

#: First words of the store's refusals that callers tell apart.
_REFUSALS: dict[str, type[ResponseError] | type[BusyLoadingError]] = {
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "LOADING": BusyLoadingError,
}

Future = asyncio.Future[Any]


class Wire(asyncio.Protocol):
    """Writes what one turn of the loop sent in one go; settles futures in the order of their commands."""

    def __init__(self) -> None:
        """Be ready to take over a connection."""
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._queue: list[bytes] = []
        self._in_flight: deque[tuple[float, Future]] = deque()
        self._paused = self._flushing = False
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
        self._queue.append(hiredis.pack_command(command))
        future: Future = self._loop.create_future()
        self._in_flight.append((time.monotonic(), future))
        if not self._flushing and not self._paused:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return future

    def waited_s(self) -> float:
        """Return how long the oldest unanswered command has waited, in seconds."""
        return time.monotonic() - self._in_flight[0][0] if self._in_flight else 0.0

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Settle everything that is not answered with an error of its own each."""
        self._queue.clear()
        while self._in_flight:
            _, future = self._in_flight.popleft()
            if not future.done():
                future.set_exception(error())

    def _flush(self) -> None:
        self._flushing = False
        queue, self._queue = self._queue, []
        if queue and not self.lost.done():
            self._transport.write(queue[0] if len(queue) == 1 else b"".join(queue))

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Settle the futures of the answers in it."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:  # scripts and commands in use answer no booleans
                _, future = self._in_flight.popleft()
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(answer, hiredis.ReplyError):
                    future.set_exception(_refusal(str(answer)))
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self._end(f"not the protocol that was expected: {error}")
            self._transport.abort()

    def pause_writing(self) -> None:
        """Keep what comes from now on in the queue."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on with the queue."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the connection is gone."""
        self._end(f"lost: {exc}" if exc else "closed by the store")

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(RedisConnectionError(why))


def _refusal(text: str) -> Exception:
    return _REFUSALS.get(text.partition(" ")[0], ResponseError)(text)
