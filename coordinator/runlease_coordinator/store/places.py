"""Where a connection to the store goes: a server, or whichever one the Sentinels name as the primary.

A place is shared by all connections to it, so what one of them finds out all of them know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from runlease_coordinator.store.refusals import no_primary, why_not
from runlease_coordinator.storeurl import StoreUrl

log = logging.getLogger(__name__)

#: How long those are waited for that do not answer at all, if most of the others have not answered either.
ASK_TIMEOUT_S = 1.0
_CONNECT_TIMEOUT_S = 2.0
#: Several connections that doubt at once ask once.
_ASK_EVERY_S = 0.2
#: What fails when a server is away, refuses its caller, or answers something else than was asked for.
AWAY = (OSError, RedisError, EOFError, asyncio.TimeoutError)

_T = TypeVar("_T")


class Place(Protocol):
    """Where connections go."""

    async def connect(self) -> AbstractConnection:
        """Return a connection that is logged in.

        Raises:
            OSError, RedisError: there is none now.
        """

    async def look(self) -> None:
        """Find out where it is by now; nothing changes where that cannot be found out."""

    def left(self, connection: AbstractConnection) -> bool:
        """Return whether the place is known to be elsewhere than the connection goes."""


class Server:
    """One server, which stays where it is."""

    def __init__(self, url: str) -> None:
        """Take a URL of redis-py.

        Raises:
            ValueError, TypeError: an option is unknown, or cannot be read.
        """
        self._pool = ConnectionPool.from_url(url, client_name="runlease-coordinator", protocol=2)
        self._new()  # checks the options

    async def connect(self) -> AbstractConnection:
        """Return a connection."""
        connection = self._new()
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types here
        return connection

    def _new(self) -> AbstractConnection:
        return self._pool.make_connection()  # type: ignore[no-any-return, no-untyped-call]  # nor here

    async def look(self) -> None:
        """Do nothing: it is where it is."""

    def left(self, connection: AbstractConnection) -> bool:
        """Return False."""
        return False


class Asking:
    """A question that several may have at the same time, and that is asked once for all of them."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Take what asks."""
        self._ask = ask
        self._one = asyncio.Lock()
        self._asked_at = float("-inf")

    async def __call__(self) -> None:
        """Ask, unless that has just been done."""
        async with self._one:
            now = asyncio.get_running_loop().time
            if now() - self._asked_at >= _ASK_EVERY_S:
                await self._ask()
                self._asked_at = now()


class Primary:
    """The primary of a service, as its Sentinels name it."""

    def __init__(self, url: StoreUrl) -> None:
        """Take the parsed URL.

        Raises:
            ValueError, TypeError: an option is unknown, or cannot be read.
        """
        self._url = url
        self._sentinels = [Server(url.sentinel(*address)) for address in url.servers]
        #: Whom the newest configuration names. Mostly one; but a Sentinel that was still ending a failover when the
        #: others failed back may name its own choice for ever, under the same epoch as theirs.
        self._addresses: tuple[tuple[str, int], ...] = ()
        self._epoch = -1
        self._asking = Asking(self._look)
        self._why_not = ""

    async def connect(self) -> AbstractConnection:
        """Return a connection to the primary, after asking the Sentinels who that is."""
        await self.look()
        if not self._addresses:
            raise no_primary(self._url.service, self._why_not)
        refusals: list[BaseException] = []
        for address in self._addresses:
            try:
                # Not for longer: a server that is frozen while it is connected to may be replaced meanwhile.
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    return await self._connect(*address)
            except AWAY as error:
                refusals.append(error)
        raise refusals[0]

    async def _connect(self, host: str, port: int) -> AbstractConnection:
        connection = await Server(self._url.node(host, port)).connect()
        try:
            # A server that was just promoted, or is demoted while it restarts, may not know of it yet.
            if b"role:master" not in await command(connection, "INFO", "replication"):
                raise RedisConnectionError(f"{host}:{port}, which the Sentinels name, is not a primary (yet)")
        except BaseException:  # cancelled, too
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def look(self) -> None:
        """Ask all Sentinels, and believe the one with the newest configuration."""
        await self._asking()

    async def _look(self) -> None:
        found, self._why_not = await most_of([self._ask(sentinel) for sentinel in self._sentinels])
        if not found:
            return
        epoch = max(epoch for epoch, _ in found)
        named = [address for of, address in found if of == epoch]
        # The one that most name comes first.
        addresses = tuple(sorted(set(named), key=lambda address: (-named.count(address), address)))
        # One that was cut off from the others says what was true before: an older epoch is never gone back to.
        if epoch >= self._epoch and addresses != self._addresses:
            if self._addresses:
                log.warning("the primary of %s is %s now", self._url.service, " or ".join(map(_text, addresses)))
            self._epoch, self._addresses = epoch, addresses

    def left(self, connection: AbstractConnection) -> bool:
        """Return whether another server was named since."""
        return address_of(connection) not in self._addresses

    async def _ask(self, sentinel: Server) -> tuple[int, tuple[str, int]]:
        connection = await sentinel.connect()
        try:
            service = self._url.service
            address = await command(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
            if not address:
                raise RedisConnectionError(f"a Sentinel knows no service {service}")
            flat = await command(connection, "SENTINEL", "MASTER", service)
            facts = dict(zip(flat[::2], flat[1::2], strict=True))
            return int(facts[b"config-epoch"]), (address[0].decode(), int(address[1]))
        finally:
            await connection.disconnect(nowait=True)


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


async def command(connection: AbstractConnection, *words: str) -> Any:
    """Send one command on a connection that nobody else uses, and return the answer."""
    await connection.send_command(*words)
    return await connection.read_response()


def address_of(connection: AbstractConnection) -> tuple[str, int]:
    """Return the host and port that a connection goes to."""
    return connection.host, connection.port  # type: ignore[attr-defined]  # those to sockets, without, are not asked


async def cancel_until_done(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task that uses connections, if there is one; returns when it has ended."""
    # Again and again: redis-py (8.1) loses a cancellation that comes while it connects or reads with a timeout.
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)


async def most_of(calls: Sequence[Coroutine[Any, Any, _T]]) -> tuple[list[_T], str]:
    """Return what came back, and why the rest did not.

    Once more than half have come back, all have ended, or it took too long.
    """
    tasks = [asyncio.create_task(call) for call in calls]
    waiting: set[asyncio.Task[_T]] = set(tasks)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                while waiting and sum(_came_back(task) for task in tasks) <= len(tasks) // 2:
                    _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    refused = {why_not(_error(task)) for task in tasks if not _came_back(task)}
    return [task.result() for task in tasks if _came_back(task)], "; ".join(sorted(refused))


def _came_back(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _error(task: asyncio.Task[Any]) -> BaseException:
    return (None if task.cancelled() else task.exception()) or TimeoutError()
