"""Coordinators, their store and the connections to them, and what can happen to each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import redis

from tests.support.cli import bootstrap
from tests.support.coordinator import CoordinatorProcess
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.redis import RedisServer
from tests.support.wait import until

#: Seconds that a fault of a connection lasts.
_SHORT_S, _LONG_S = 0.2, 2.0


class Site:
    """Where ranks log to; `address` leads through proxies."""

    def __init__(self, store: str, *flags: str) -> None:
        """Start it.

        Args:
            store: ``embedded``: one coordinator with its own store; ``redis``: two on one Redis that syncs each write.
            flags: of the coordinators.
        """
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rlf-", dir="/tmp")))
        self._redis: RedisServer | None = None
        self._coordinators: list[CoordinatorProcess] = []
        self._proxies: list[Proxy] = []
        with self._stack:  # which ends all of it, if not all of it starts
            if store == "redis":
                self._redis = self._start_redis()
                flags = (*flags, "--store", self._redis.url, "--history-url", str(self._folder / "history"))
            for _ in range(2 if self._redis else 1):
                one = CoordinatorProcess("--log-level", "warning", *flags)
                self._stack.callback(one.close)
                self._coordinators.append(one.start())
                self._proxies.append(Proxy(one.address))
                self._stack.callback(self._proxies[-1].close)
            self._stack = self._stack.pop_all()

    def _start_redis(self) -> RedisServer:
        binary = shutil.which("redis-server")
        assert binary is not None, "redis-server is not installed: --store embedded needs none"
        server = RedisServer("appendonly yes", "appendfsync always", binary=binary)
        self._stack.callback(server.close)
        bootstrap(server.url)
        return server

    @property
    def external(self) -> bool:
        """Whether the store is not a coordinator's own, so that it lives on without any."""
        return self._redis is not None

    @property
    def address(self) -> str:
        """What clients under test are given."""
        return ",".join(proxy.address for proxy in self._proxies)

    @property
    def steady_address(self) -> str:
        """A coordinator without a proxy before it."""
        return self._coordinators[0].address

    @property
    def env(self) -> dict[str, str]:
        """The environment of clients under test."""
        return self._coordinators[0].env | {"RUNLEASE_COORDINATOR": self.address, "RUNLEASE_DIR": str(self.spools)}

    @property
    def spools(self) -> Path:
        """Where clients under test put what memory has no room for."""
        return self._folder / "runlease"

    def open_store(self) -> redis.Redis:
        """Connect to the store itself."""
        url = self._redis.url if self._redis else f"unix://{self._socket}"
        return redis.Redis.from_url(url)

    @property
    def _socket(self) -> Path:
        (socket,) = self._coordinators[0].directory.rglob("store.sock")
        return socket

    @property
    def logs(self) -> str:
        """What the coordinators said, for failures."""
        return "\n".join(one.log.read_text()[-4000:] for one in self._coordinators)

    # Faults. Each returns once it is over, that is: once what was killed runs again.

    def faults(self) -> dict[str, Callable[[Random], None]]:
        """Return all there are, by name."""
        return {
            "kill coordinator": self.kill_coordinator,
            "kill store": self.kill_store,
            "kill both": self.kill_both,
            "cut": self.cut,
            "lose replies": self.lose_replies,
            "stall": self.stall,
        }

    def kill_coordinator(self, random: Random) -> None:
        """SIGKILL one coordinator, and start it again on its port."""
        one = random.choice(self._coordinators)
        one.kill()
        one.start()

    def kill_coordinators(self) -> None:
        """SIGKILL all coordinators at once, and start them again."""
        for one in self._coordinators:
            one.kill()
        for one in self._coordinators:
            one.start()

    def kill_store(self, random: Random) -> None:
        """SIGKILL the store; the embedded one is started again by its coordinator."""
        if self._redis is not None:
            self._redis.kill()
            self._redis.start()
            return
        before = self._store_pid()
        _kill(before)
        until(lambda: self._store_pid() not in (before, 0))

    def _store_pid(self) -> int:
        """Return the embedded store's process, 0 while there is none."""
        try:
            return self._coordinators[0].store_pid
        except FileNotFoundError:
            return 0

    def kill_both(self, random: Random) -> None:
        """SIGKILL the store and all coordinators."""
        if self._redis is not None:
            self._redis.kill()
        else:
            _kill(self._store_pid())
        for one in self._coordinators:
            one.kill()
        if self._redis is not None:
            self._redis.start()
        for one in self._coordinators:
            one.start()

    def cut(self, random: Random) -> None:
        """Reset every connection."""
        for proxy in self._proxies:
            proxy.cut()

    def lose_replies(self, random: Random) -> None:
        """Let what is sent arrive, and no answer come back; then reset."""
        for proxy in self._proxies:
            proxy.drop(TO_CLIENT)
        time.sleep(random.uniform(_SHORT_S, _LONG_S))
        self.cut(random)

    def stall(self, random: Random) -> None:
        """Hold all that goes one way, for a while."""
        way = random.choice((TO_SERVER, TO_CLIENT))
        for proxy in self._proxies:
            proxy.stall(way)
        time.sleep(random.uniform(_SHORT_S, _LONG_S))
        for proxy in self._proxies:
            proxy.flow(way)

    def close(self) -> None:
        """End all of it."""
        self._stack.close()


def _kill(pid: int) -> None:
    if not pid:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
