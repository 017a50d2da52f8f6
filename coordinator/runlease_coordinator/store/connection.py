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

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.places import AWAY, Place, command
from runlease_coordinator.store.refusals import refusal_of, unavailable
from runlease_coordinator.store.scripts import Script, scripts
from runlease_coordinator.store.wire import NotReplicated, Wire

log = logging.getLogger(__name__)

#: How long an answer may take before the connection counts as dead: far above a slow fsync, below a renewal's period.
ANSWER_TIMEOUT_S = 4.0
_BACKOFF_S = (0.02, 1.0)
#: How long until it is asked whether another server is the primary by now.
_OVERDUE_S = 1.0
#: What no second try makes right.
_FINAL = (AuthenticationError, NoPermissionError)


class StoreConnection:
    """One pipelined connection; calls are answered in the order in which they were made."""

    def __init__(self, place: Place, name: str, replicas: int = 0) -> None:
        """Take the place that it goes to, a name for logs, and how many replicas its scripts' writes reach."""
        self._place = place
        self._name = name
        self._replicas = replicas
        self._wire: Wire | None = None
        self._connected = asyncio.Event()
        #: Set once the first attempt has come to an end that is worth telling.
        self._settled = asyncio.Event()
        self._doubt = asyncio.Event()
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
            self.doubt()
            message = f"the store has not replicated this ({error}): repeat it; if it stays so, check the replicas"
            raise Unavailable("NOT_REPLICATED", message, 200) from error
        except ResponseError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            if refusal.doubt:
                self.doubt()
            raise unavailable(refusal, error) from error

    async def run(self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...]) -> Any:
        """Run a script and return its answer, once the connection's replicas have it; same errors as `call`."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args, replicas=self._replicas)
        except NoScriptError:  # somebody flushed the script cache; EVAL fills it again
            return await self.call("EVAL", script.source, len(keys), *keys, *args, replicas=self._replicas)

    def doubt(self) -> None:
        """Have the place looked at again: what the store answers is not what its primary would."""
        self._doubt.set()

    def _away(self) -> Unavailable:
        return Unavailable("STORE_UNAVAILABLE", f"the store is away: {self._why_not}")

    async def _run(self) -> None:
        backoff = _BACKOFF_S[0]
        while True:
            connection: AbstractConnection | None = None
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    connection = await self._place.connect()
                    self._wire = wire = await _open(connection)
                self._connected.set()
                self._settled.set()
                backoff = _BACKOFF_S[0]
                raise await self._end_of(wire, connection)
            except AWAY as error:
                if self._wire is not None or isinstance(error, _FINAL):
                    log.warning("store connection %s lost: %s", self._name, error)
                self._why_not = str(error) or type(error).__name__
                if isinstance(error, _FINAL):
                    self._settled.set()
            finally:
                lost, self._wire = self._wire, None
                self._connected.clear()
                if lost is not None:
                    lost.fail_all(self._away)
                if connection is not None:
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_S[1])

    async def _end_of(self, wire: Wire, connection: AbstractConnection) -> Exception:
        """Wait until the connection is lost, an answer is overdue or the primary is elsewhere; returns why."""
        self._doubt.clear()
        while (silent_s := wire.silent_s()) <= ANSWER_TIMEOUT_S:
            if self._doubt.is_set() or silent_s > _OVERDUE_S:
                self._doubt.clear()
                await self._place.look()
            if self._place.left(connection):
                return RedisConnectionError("another server is the primary now")
            await _first(wire.lost, self._doubt, _OVERDUE_S / 2)
            if wire.lost.done():
                return wire.lost.result()
        return RedisTimeoutError(f"no answer for {ANSWER_TIMEOUT_S:g} s")


async def _open(connection: AbstractConnection) -> Wire:
    for script in scripts().values():
        await command(connection, "SCRIPT", "LOAD", script.source)
    wire = Wire()
    wire.take_over(connection)
    return wire


async def _first(lost: asyncio.Future[Any], doubt: asyncio.Event, timeout_s: float) -> None:
    """Return when the connection is lost, there is a doubt, or after a time."""
    doubted = asyncio.ensure_future(doubt.wait())
    try:
        await asyncio.wait({lost, doubted}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        doubted.cancel()
