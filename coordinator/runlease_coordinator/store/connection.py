"""Connections to the store: concurrent calls share round trips.

Calls of one loop turn, and those made while others are on their way, go together (`wire.py` has the bytes). A lost
connection fails what was in flight (its effect is unknown: every operation can be repeated) and is made anew with
backoff; until then calls fail at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
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
from runlease_coordinator.store.wire import NotReplicated, Wire

log = logging.getLogger(__name__)

#: How long an answer may take before the connection counts as dead: far above a slow fsync, below a renewal's period.
ANSWER_TIMEOUT_S = 4.0
_BACKOFF_S = (0.02, 1.0)
#: What a store's refusal begins with, where it refuses for a state that passes: reason, what to do, when to come again.
_STATES = {
    "OOM": ("OUT_OF_MEMORY", "is out of memory, raise its maxmemory", 2000),
    "MISCONF": ("STORE_UNAVAILABLE", "cannot write to its disk, make room or mend what its log says", 2000),
    "READONLY": ("STORE_UNAVAILABLE", "is a replica, name its primary with --store", 1000),
    "NOREPLICAS": ("STORE_UNAVAILABLE", "has fewer replicas than its min-replicas-to-write", 1000),
    "MASTERDOWN": ("STORE_UNAVAILABLE", "is a replica without a primary", 1000),
    "LOADING": ("STORE_UNAVAILABLE", "is loading its data", 500),
    "BUSY": ("STORE_UNAVAILABLE", "is busy with another script", 500),
}
_NOT_CONNECTED = (OSError, RedisConnectionError, RedisTimeoutError, asyncio.TimeoutError, EOFError)


class StoreConnection:
    """One pipelined connection; calls are answered in the order in which they were made."""

    def __init__(self, pool: ConnectionPool, name: str, replicas: int = 0) -> None:
        """Take the pool that makes connections, a name for logs, and how many replicas its scripts' writes reach."""
        self._pool = pool
        self._name = name
        self._replicas = replicas
        self._wire: Wire | None = None
        self._connected = asyncio.Event()
        #: Set once the first attempt has come to an end that is worth telling.
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"

    async def start(self, timeout_s: float) -> None:
        """Connect and load the scripts.

        Raises:
            Unavailable: not connected within ``timeout_s``; the message says why.
        """
        self._task = asyncio.create_task(self._run(), name=f"store-{self._name}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        if not self._connected.is_set():
            await self.close()
            raise self._away()

    async def close(self) -> None:
        """Disconnect; calls in flight fail."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def call(self, *command: Any, replicas: int = 0) -> Any:
        """Send one command and return its answer, once so many replicas have what it wrote.

        Raises:
            Unavailable: the store is away, or in a state in which it takes nothing; whether the command took effect is
                not known. NOT_REPLICATED: it did, and may be lost with the primary.
            ResponseError: the store's own refusal.
        """
        wire = self._wire
        if wire is None:
            raise self._away()
        try:
            return await wire.send(command, replicas)
        except NotReplicated as error:
            message = f"the store has not replicated this ({error}): repeat it; if it stays so, check the replicas"
            raise Unavailable("NOT_REPLICATED", message, 200) from error
        except ResponseError as error:
            state = _STATES.get(str(error).partition(" ")[0])
            if state is None:
                raise
            reason, words, retry_after_ms = state
            raise Unavailable(reason, f"the store {words}: {error}", retry_after_ms) from error

    async def run(self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...]) -> Any:
        """Run a script and return its answer, once the connection's replicas have it; same errors as `call`."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args, replicas=self._replicas)
        except NoScriptError:  # somebody flushed the script cache; EVAL fills it again
            return await self.call("EVAL", script.source, len(keys), *keys, *args, replicas=self._replicas)

    def _away(self) -> Unavailable:
        return Unavailable("STORE_UNAVAILABLE", f"the store is away: {self._why_not}")

    async def _run(self) -> None:
        backoff = _BACKOFF_S[0]
        while True:
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                self._wire = wire = await self._open(connection)
                self._connected.set()
                self._settled.set()
                backoff = _BACKOFF_S[0]
                raise await self._end_of(wire)
            except (*_NOT_CONNECTED, RedisError) as error:
                if self._wire is not None or isinstance(error, AuthenticationError):
                    log.warning("store connection %s lost: %s", self._name, error)
                self._why_not = str(error) or type(error).__name__
                if isinstance(error, AuthenticationError):  # no second try makes a password right
                    self._settled.set()
            finally:
                lost, self._wire = self._wire, None
                self._connected.clear()
                if lost is not None:
                    lost.fail_all(self._away)
                await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_S[1])

    async def _open(self, connection: AbstractConnection) -> Wire:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
            for script in scripts().values():
                await connection.send_command("SCRIPT", "LOAD", script.source)
                await connection.read_response()
        wire = Wire()
        wire.take_over(connection)
        return wire

    async def _end_of(self, wire: Wire) -> Exception:
        """Wait until the connection is lost or an answer is overdue; returns why."""
        while wire.silent_s() <= ANSWER_TIMEOUT_S:
            done, _ = await asyncio.wait({wire.lost}, timeout=ANSWER_TIMEOUT_S / 4)
            if done:
                return wire.lost.result()
        return RedisTimeoutError(f"no answer for {ANSWER_TIMEOUT_S:g} s")
