"""Connections to the store: concurrent calls share round trips.

Calls of one loop turn, and those made while others are on their way, go together (`wire.py` has the bytes). A lost
connection fails what was in flight (its effect is unknown: every operation can be repeated) and is made anew with
backoff; until then calls fail at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Any, NoReturn

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.store.places import AWAY, Place, cancel_until_done, command
from runlease_coordinator.store.refusals import refusal_of, unavailable, why_not
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


class Lane(ABC):
    """A way to the store for one kind of calls."""

    def __init__(self, replicas: int) -> None:
        """Take how many replicas its scripts' writes reach."""
        self._replicas = replicas

    @abstractmethod
    async def start(self, timeout_s: float) -> None:
        """Connect.

        Raises:
            Unavailable: not connected within ``timeout_s``; the message says why.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect; calls in flight fail."""

    @abstractmethod
    async def call(self, *words: Any, replicas: int = 0) -> Any:
        """Send one command, to where its key is, and return its answer, once so many replicas have what it wrote.

        Raises:
            Unavailable: the store is away, or in a state in which it takes nothing; whether the command took effect is
                not known. NOT_REPLICATED: it did, and may be lost with the primary.
            ResponseError: the store's own refusal.
        """

    @abstractmethod
    async def everywhere(self, *words: Any) -> list[Any]:
        """Send one command to each server that has a part of the store, and return the answers; errors as of `call`."""

    @abstractmethod
    def doubt(self) -> None:
        """Have it looked at again where the store is: what it answers is not what a primary would."""

    async def run(self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...]) -> Any:
        """Run a script and return its answer, once the lane's replicas have what it wrote; errors as of `call`."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args, replicas=self._replicas)
        except NoScriptError:  # somebody flushed the script cache; EVAL fills it again
            return await self.call("EVAL", script.source, len(keys), *keys, *args, replicas=self._replicas)


class StoreConnection(Lane):
    """One pipelined connection; calls are answered in the order in which they were made."""

    def __init__(self, place: Place, name: str, replicas: int = 0) -> None:
        """Take the place that it goes to, a name for logs, and how many replicas its scripts' writes reach."""
        super().__init__(replicas)
        self._place = place
        self._name = name
        self._wire: Wire | None = None
        self._connected = asyncio.Event()
        #: Set once the first attempt has come to an end, and once to one that is worth telling.
        self._tried = asyncio.Event()
        self._settled = asyncio.Event()
        self._doubt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"

    def begin(self) -> None:
        """Connect in the background."""
        self._task = asyncio.create_task(self._run(), name=f"store-{self._name}")

    async def tried(self, timeout_s: float) -> None:
        """Wait until the first attempt to connect has come to an end, for at most ``timeout_s``."""
        if self._tried.is_set():  # as nearly always: without a timer for each call
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._tried.wait()

    async def start(self, timeout_s: float) -> None:
        """Connect and load the scripts.

        Raises:
            Unavailable: not connected within ``timeout_s``; the message says why.
        """
        self.begin()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        if not self._connected.is_set():
            await self.close()
            raise self._away()

    async def close(self) -> None:
        """Disconnect; calls in flight fail."""
        await cancel_until_done(self._task)
        self._task = None

    async def call(self, *words: Any, replicas: int = 0) -> Any:
        """See `Lane.call`."""
        try:
            return await self.send(words, replicas)
        except NoScriptError:
            raise
        except ResponseError as error:
            self.refuse(error)

    async def everywhere(self, *words: Any) -> list[Any]:
        """See `Lane.everywhere`."""
        return [await self.call(*words)]

    async def send(self, words: tuple[Any, ...], replicas: int, *, asking: bool = False) -> Any:
        """Send one command as `call` does, and leave its refusal to the caller.

        Args:
            words: the command.
            replicas: how many must have what it wrote.
            asking: whether the server is to take it for a slot that it does not have yet.
        """
        wire = self._wire
        if wire is None:
            raise self._away()
        if asking:  # its answer is of no interest; in its place it counts for the next command
            wire.send(("ASKING",)).add_done_callback(_ignore)
        try:
            return await wire.send(words, replicas)
        except NotReplicated as error:
            self.doubt()
            message = f"the store has not replicated this ({error}): repeat it; if it stays so, check the replicas"
            raise Unavailable("NOT_REPLICATED", message, 200) from error

    def refuse(self, error: ResponseError) -> NoReturn:
        """Raise what a refusal means.

        Raises:
            Unavailable: it is one of a state that passes.
            ResponseError: it is not.
        """
        refusal = refusal_of(error)
        if refusal is None:
            raise error
        if refusal.doubt:
            self.doubt()
        raise unavailable(refusal, error) from error

    def doubt(self) -> None:
        """See `Lane.doubt`."""
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
                if self._settled.is_set():
                    log.info("store connection %s is back", self._name)
                self._tried.set()
                self._settled.set()
                backoff = _BACKOFF_S[0]
                raise await self._end_of(wire, connection)
            except AWAY as error:
                before, self._why_not = self._why_not, why_not(error)
                if self._wire is not None:
                    log.warning("store connection %s lost: %s", self._name, self._why_not)
                elif isinstance(error, _FINAL) and self._settled.is_set() and self._why_not != before:
                    # Once, though it is tried again each second. The first time of all it is raised.
                    remedy = "mend that in the store, or restart with another --store"
                    log.error("store connection %s is refused: %s; %s", self._name, self._why_not, remedy)
                if isinstance(error, _FINAL):
                    self._settled.set()
            finally:
                lost, self._wire = self._wire, None
                self._connected.clear()
                self._tried.set()
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


def _ignore(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
