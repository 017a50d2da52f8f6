"""Connections to the store: concurrent calls of one loop turn share one round trip.

A call appends its command to a queue; a task writes everything that one turn of the event loop queued in one go and
another resolves the answers in order. Several turns may be in flight. A lost connection fails what was in flight (its
effect is unknown: every operation can be repeated) and is made anew with backoff; until then calls fail at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.scripts import Script, scripts

log = logging.getLogger(__name__)

#: How long an answer may take before the connection counts as dead: far above a slow fsync, below a renewal's period.
ANSWER_TIMEOUT_S = 4.0
_BACKOFF_S = (0.02, 1.0)
_NOT_CONNECTED = (OSError, RedisConnectionError, RedisTimeoutError, asyncio.TimeoutError, EOFError)

_Call = tuple[tuple[Any, ...], "asyncio.Future[Any]"]


class StoreConnection:
    """One pipelined connection; calls are answered in the order in which they were made."""

    def __init__(self, pool: ConnectionPool, name: str) -> None:
        """Take the pool that makes connections and a name for logs; `start` connects."""
        self._pool = pool
        self._name = name
        self._queue: list[_Call] = []
        self._in_flight: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"

    async def start(self, timeout_s: float) -> None:
        """Connect and load the scripts.

        Raises:
            Unavailable: not connected within ``timeout_s``; the message says why.
        """
        self._task = asyncio.create_task(self._run(), name=f"store-{self._name}")
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            await self.close()
            raise self._away() from None

    async def close(self) -> None:
        """Disconnect; calls in flight fail."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def call(self, *command: Any) -> Any:
        """Send one command and return its answer.

        Raises:
            Unavailable: the store is away or out of memory; whether the command took effect is not known.
            ResponseError: the store's own refusal.
        """
        if not self._connected.is_set():
            raise self._away()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        self._wake.set()
        try:
            return await future
        except OutOfMemoryError as error:
            raise Unavailable("OUT_OF_MEMORY", f"the store is out of memory: {error}", 2000) from error
        except BusyLoadingError as error:
            raise Unavailable("STORE_UNAVAILABLE", f"the store is loading its data: {error}") from error

    async def run(self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...]) -> Any:
        """Run a script and return its answer; same errors as `call`."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:  # somebody flushed the script cache; EVAL fills it again
            return await self.call("EVAL", script.source, len(keys), *keys, *args)

    def _away(self) -> Unavailable:
        return Unavailable("STORE_UNAVAILABLE", f"the store is away: {self._why_not}")

    async def _run(self) -> None:
        backoff = _BACKOFF_S[0]
        while True:
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await self._open(connection)
                self._connected.set()
                backoff = _BACKOFF_S[0]
                await self._serve(connection)
            except (*_NOT_CONNECTED, RedisError) as error:
                if self._connected.is_set() or isinstance(error, AuthenticationError):
                    log.warning("store connection %s lost: %s", self._name, error)
                self._why_not = str(error) or type(error).__name__
            finally:
                self._connected.clear()
                self._fail_all()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_S[1])

    async def _open(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
            for script in scripts().values():
                await connection.send_command("SCRIPT", "LOAD", script.source)
                await connection.read_response()

    async def _serve(self, connection: AbstractConnection) -> None:
        tasks = [
            asyncio.create_task(loop(connection), name=f"store-{self._name}-{loop.__name__}")
            for loop in (self._write, self._read, self._watch)
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, []
            now = time.monotonic()
            self._in_flight.extend((now, future) for _, future in batch)
            packed = connection.pack_commands([command for command, _ in batch])
            await connection.send_packed_command(packed, check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            try:
                answer = await connection.read_response()
            except ResponseError as error:
                self._settle(error=error)
            else:
                self._settle(answer=answer)

    def _settle(self, *, answer: Any = None, error: Exception | None = None) -> None:
        _, future = self._in_flight.popleft()
        if future.done():  # its caller was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)

    async def _watch(self, _: AbstractConnection) -> None:
        while True:
            await asyncio.sleep(ANSWER_TIMEOUT_S / 4)
            if self._in_flight and time.monotonic() - self._in_flight[0][0] > ANSWER_TIMEOUT_S:
                raise RedisTimeoutError(f"no answer for {ANSWER_TIMEOUT_S:g} s")

    def _fail_all(self) -> None:
        pending = [future for _, future in self._in_flight] + [future for _, future in self._queue]
        self._in_flight.clear()
        self._queue.clear()
        for future in pending:
            if not future.done():
                future.set_exception(self._away())
