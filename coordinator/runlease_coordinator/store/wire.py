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
from redis.exceptions import NoScriptError, RedisError, ResponseError

Future = asyncio.Future[Any]

#: How long a batch waits for its replicas, in seconds: below the shortest timeout of a renewal's call (1 s).
WAIT_TIMEOUT_S = 0.8


class NotReplicated(RedisError):
    """A command took effect, but too few replicas are known to have it: it may be lost, and is not undone."""


class Wire(asyncio.Protocol):
    """Sends in batches, one at a time: what is called while one is on its way goes with the next.

    The store syncs once for all that it has read; more small writes meanwhile would only cost both sides a wake-up
    each (measured: a sixth of the throughput of leases). Answers settle the futures in the order of the commands.

    A batch with commands that are to reach replicas is closed by one WAIT; until it is answered, theirs are held back.
    """

    def __init__(self) -> None:
        """Be ready to take over a connection."""
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._queue: list[tuple[bytes, Future, int]] = []
        #: Of each command sent, its caller's future and whether replicas are to have it; of a WAIT, None.
        self._in_flight: deque[tuple[Future | None, int]] = deque()
        #: Answers that wait for the replicas.
        self._held: list[tuple[Future, Any]] = []
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

    def send(self, command: tuple[Any, ...], replicas: int = 0) -> Future:
        """Queue a command of str, bytes, int or float; returns the future of its answer.

        With ``replicas`` it is settled once so many of them have what the command wrote, or fails with
        `NotReplicated`. A refusal comes at once: nothing was written.
        """
        packed = hiredis.pack_command(command)
        future: Future = self._loop.create_future()
        self._queue.append((packed, future, replicas))
        self._arm()
        return future

    def silent_s(self) -> float:
        """Return for how long an answer that is due has not come, in seconds."""
        return time.monotonic() - self._heard_at if self._in_flight else 0.0

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Settle everything that is not answered with an error of its own each."""
        held = [future for future, _ in self._held]
        pending = [*held, *(future for future, _ in self._in_flight), *(future for _, future, _ in self._queue)]
        self._queue.clear()
        self._in_flight.clear()
        self._held.clear()
        for future in pending:
            if future is not None and not future.done():
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
        packed, futures, replicas = zip(*self._queue, strict=True)
        self._queue.clear()
        self._in_flight.extend(zip(futures, replicas, strict=True))
        if most := max(replicas):
            self._in_flight.append((None, most))
            wait: tuple[Any, ...] = ("WAIT", most, int(WAIT_TIMEOUT_S * 1000))
            packed = (*packed, hiredis.pack_command(wait))
        self._heard_at = time.monotonic()
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Settle the futures of the answers in it."""
        self._heard_at = time.monotonic()
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:  # scripts and commands in use answer no booleans
                future, replicas = self._in_flight.popleft()
                if future is None:
                    self._settle_held(answer, replicas)
                elif future.done():  # its caller was cancelled
                    continue
                elif isinstance(answer, hiredis.ReplyError):
                    future.set_exception(_refusal(str(answer)))
                elif replicas:
                    self._held.append((future, answer))
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self._end(f"not the protocol that was expected: {error}")
            self._transport.abort()
        if self._queue:
            self._arm()

    def _settle_held(self, waited: Any, replicas: int) -> None:
        """Let the answers go that a WAIT covers, or fail them with what it found."""
        held, self._held = self._held, []
        for future, answer in held:
            if future.done():
                continue
            if isinstance(waited, hiredis.ReplyError):
                # A server that is made a replica meanwhile ends all WAITs, and takes no further ones.
                text = str(waited)
                future.set_exception(_refusal(text) if text.startswith("NOPERM") else NotReplicated(text))
            elif waited < replicas:
                future.set_exception(NotReplicated(f"{waited} of {replicas} replicas within {WAIT_TIMEOUT_S:g} s"))
            else:
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the connection is gone."""
        self._end(f"lost: {exc}" if exc else "closed by the store")

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(RedisConnectionError(why))


def _refusal(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
