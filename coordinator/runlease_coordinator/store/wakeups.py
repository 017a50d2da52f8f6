"""Wake-ups from the store: what a script publishes reaches those who wait in this coordinator.

A published message may be lost (a connection breaks), so nobody relies on it: waiters have a timer besides, and after
every new connection all of them are woken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from runlease_coordinator.store.places import AWAY, Place, cancel_until_done, command

log = logging.getLogger(__name__)

_WAKE = "rl:wake"
_EVENT = "rl:event"
_RECONNECT_S = 0.5
#: A subscription that is silent is asked for a sign of life so often; one that gives none is given up.
_PING_EVERY_S = 2.0


class Waiter:
    """One who waits for a run's lease, or for events of partitions."""

    __slots__ = ("_event", "nonce", "topics", "woken_for")

    def __init__(self, topics: Sequence[str], nonce: str = "") -> None:
        """Take what it waits for, and the nonce that a wake-up may name."""
        self.topics = topics
        self.nonce = nonce
        #: What it was woken for since `clear`.
        self.woken_for: set[str] = set()
        self._event = asyncio.Event()

    def clear(self) -> None:
        """Forget earlier wake-ups; call it before looking."""
        self.woken_for = set()
        self._event.clear()

    def wake(self, topics: Iterable[str]) -> None:
        """End the sleep."""
        self.woken_for.update(topics)
        self._event.set()

    async def sleep(self, timeout_s: float) -> None:
        """Sleep until woken, for at most ``timeout_s`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()


class Wakeups:
    """Subscribes to the store's messages and wakes those whom they concern."""

    def __init__(self, place: Place) -> None:
        """Take the store's place; `start` subscribes."""
        self._place = place
        self._waiters: dict[str, set[Waiter]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Subscribe, and again whenever the connection is lost."""
        self._task = asyncio.create_task(self._run(), name="store-wakeups")

    async def close(self) -> None:
        """Unsubscribe."""
        await cancel_until_done(self._task)

    @contextlib.contextmanager
    def waiting(self, topics: Sequence[str], nonce: str = "") -> Iterator[Waiter]:
        """Be woken for topics: the path of a run, or the keys of partitions' events."""
        waiter = Waiter(topics, nonce)
        for topic in topics:
            self._waiters.setdefault(topic, set()).add(waiter)
        try:
            yield waiter
        finally:
            for topic in topics:
                self._waiters[topic].discard(waiter)
                if not self._waiters[topic]:
                    del self._waiters[topic]

    def wake_all(self) -> None:
        """Wake everybody: something may have been missed, or all have to leave."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake(waiter.topics)

    async def _run(self) -> None:
        while True:
            connection: AbstractConnection | None = None
            try:
                async with asyncio.timeout(_PING_EVERY_S):
                    connection = await self._place.connect()
                    await command(connection, "SUBSCRIBE", _WAKE, _EVENT)
                    await connection.read_response()  # that of the second channel
                self.wake_all()
                await self._listen(connection)
            except AWAY as error:
                log.debug("wake-ups lost: %s", error)
            finally:
                if connection is not None:
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self, connection: AbstractConnection) -> None:
        asked = False
        while not self._place.left(connection):
            message = await connection.read_response(timeout=_PING_EVERY_S, disconnect_on_error=False)
            if message is None:  # silent for so long
                if asked:
                    raise RedisConnectionError("no sign of life")
                await connection.send_command("PING")
            elif message[0] == b"message":
                self._take(message[1].decode(), message[2].decode())
            asked = message is None

    def _take(self, channel: str, message: str) -> None:
        topic, _, nonce = (message, "", "*") if channel == _EVENT else message.partition(" ")
        for waiter in self._waiters.get(topic, ()):
            if nonce in ("*", waiter.nonce):
                waiter.wake((topic,))
