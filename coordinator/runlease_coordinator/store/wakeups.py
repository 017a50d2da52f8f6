"""Wake-ups from the store: what a script publishes reaches those who wait in this coordinator.

A published message may be lost (a connection breaks), so nobody relies on it: waiters have a timer besides, and after
every new connection all of them are woken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

_WAKE = "rl:wake"
_EVENT = "rl:event"
_RECONNECT_S = 0.5


class Waiter:
    """One who waits for a run's lease, or for events of a partition."""

    __slots__ = ("_event", "nonce")

    def __init__(self, nonce: str = "") -> None:
        """Take the nonce that a wake-up may name."""
        self.nonce = nonce
        self._event = asyncio.Event()

    def clear(self) -> None:
        """Forget earlier wake-ups; call it before looking."""
        self._event.clear()

    def wake(self) -> None:
        """End the sleep."""
        self._event.set()

    async def sleep(self, timeout_s: float) -> bool:
        """Sleep until woken or for ``timeout_s`` seconds; returns whether woken."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class Wakeups:
    """Subscribes to the store's messages and wakes those whom they concern."""

    def __init__(self, url: str) -> None:
        """Take the store's URL; `start` subscribes."""
        self._url = url
        self._waiters: dict[str, set[Waiter]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Subscribe, and again whenever the connection is lost."""
        self._task = asyncio.create_task(self._run(), name="store-wakeups")

    async def close(self) -> None:
        """Unsubscribe."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.contextmanager
    def waiting(self, topic: str, nonce: str = "") -> Iterator[Waiter]:
        """Be woken for a topic: a run's path, or the key of a partition's events."""
        with self._registered(Waiter(nonce), (topic,)) as waiter:
            yield waiter

    @contextlib.contextmanager
    def watching(self, topics: Sequence[str]) -> Iterator[Waiter]:
        """Be woken for any of several topics."""
        with self._registered(Waiter(), topics) as waiter:
            yield waiter

    @contextlib.contextmanager
    def _registered(self, waiter: Waiter, topics: Sequence[str]) -> Iterator[Waiter]:
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
                waiter.wake()

    async def _run(self) -> None:
        while True:
            store = Redis.from_url(self._url, protocol=2, client_name="runlease-wakeups")
            try:
                async with store.pubsub(ignore_subscribe_messages=True) as messages:
                    await messages.subscribe(_WAKE, _EVENT)
                    self.wake_all()
                    async for message in messages.listen():
                        self._take(message["channel"].decode(), message["data"].decode())
            except (OSError, RedisError) as error:
                log.debug("wake-ups lost: %s", error)
            finally:
                await store.aclose()
            await asyncio.sleep(_RECONNECT_S)

    def _take(self, channel: str, message: str) -> None:
        topic, _, nonce = (message, "", "*") if channel == _EVENT else message.partition(" ")
        for waiter in self._waiters.get(topic, ()):
            if nonce in ("*", waiter.nonce):
                waiter.wake()
