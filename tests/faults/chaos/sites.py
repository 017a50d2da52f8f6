"""Where a chaos run takes place: coordinators, the ways to them, and one of four kinds of store; and their faults."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import redis
from runlease_coordinator.store.server_binary import find_server

from tests.support.clock import WallClock, find_faketime
from tests.support.coordinator import CoordinatorProcess
from tests.support.nodes import Node
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.wait import until

MAX_TTL_S, LOCK_DELAY_S = 5.0, 1.0
#: Short faults are ridden out; long ones outlast leases.
_SHORT_S, _LONG_S = (0.1, 1.5), (2.0, 7.0)

_START_WITHIN_S = 60.0

Fault = Callable[[Random], None]


def duration(random: Random) -> float:
    """Return how long a fault lasts: mostly short, now and then longer than a ttl."""
    return random.uniform(*(_LONG_S if random.random() < 0.2 else _SHORT_S))


def start(one: CoordinatorProcess) -> CoordinatorProcess:
    """Start a coordinator, again and again while its store is in no state for it."""
    until_s = time.monotonic() + _START_WITHIN_S
    while True:
        try:
            return one.start()
        except AssertionError:
            if time.monotonic() > until_s:
                raise
            if one.process is not None:
                one.process.wait()
            time.sleep(0.2)


class Site:
    """Coordinators that clients reach through proxies, on a store; ``embedded`` is one coordinator with its own."""

    #: Whether what the store acknowledged may be lost.
    lossy = False
    quarantine_s = 0.0
    #: Seconds by which the store's clock is set forward, in all.
    clock_slack_s = 0.0
    #: Seconds by which it was ahead at most: once it is right again, what was written then ends that much later.
    clock_ahead_s = 0.0

    def __init__(self, random: Random, variant: str | None = None) -> None:
        """Start it; all that is random about it follows from ``random``.

        Args:
            random: makes all choices.
            variant: of the coordinators, a known-bad one.
        """
        self._variant = variant
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="rlx-", dir="/tmp")))
        self.coordinators: list[CoordinatorProcess] = []
        self.ways: list[Proxy] = []
        self.renewal_ways: list[Proxy] = []
        self.on_loss: Callable[[], None] = lambda: None
        self._roles: dict[str, threading.Lock] = {}
        self._making = threading.Lock()
        try:
            self.start(random)
        except BaseException:  # an interrupt, too, leaves nothing half-made
            self.stack.close()
            raise

    def start(self, random: Random) -> None:
        """Start store and coordinators."""
        self.serve()

    def serve(self, *stores: str, data_nodes: int = 1, flags: tuple[str, ...] = ()) -> None:
        """Start a coordinator for each URL of the store; one with its own store where there is none."""
        common = ("--max-ttl", f"{MAX_TTL_S:g}", "--lock-delay", f"{LOCK_DELAY_S:g}", "--log-level", "warning", *flags)
        for store in stores or ("",):
            own = ("--store", store, "--data-nodes", str(data_nodes)) if store else ()
            one = CoordinatorProcess(*common, *own, variant=self._variant)
            self.stack.callback(self._end, one)
            self.coordinators.append(start(one))
            for ways in (self.ways, self.renewal_ways):
                ways.append(Proxy(one.address))
                self.stack.callback(ways[-1].close)

    @staticmethod
    def _end(one: CoordinatorProcess) -> None:
        if one.process is not None and one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
        one.close()

    def bootstrap(self, url: str, *flags: str) -> None:
        """Open a store."""
        command = [sys.executable, "-m", "runlease", "bootstrap", *flags, "--max-ttl", f"{MAX_TTL_S:g}", url]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        self.quarantine_s = MAX_TTL_S * 1.02 + 2

    def open_store(self) -> Any:
        """Connect to the store as it is now."""
        (path,) = self.coordinators[0].directory.rglob("store.sock")
        return redis.Redis.from_url(f"unix://{path}", socket_timeout=5)

    def address_of(self, ways: list[Proxy]) -> str:
        """What clients are given."""
        return ",".join(way.address for way in ways)

    @contextlib.contextmanager
    def alone(self, role: str) -> Iterator[bool]:
        """Let no two faults have the same process; yields whether this one may."""
        with self._making:
            lock = self._roles.setdefault(role, threading.Lock())
        if not lock.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def faults(self) -> Mapping[str, Fault]:
        """Return what can happen here, by name; each returns once it is over."""
        return {
            "kill coordinator": self.kill_coordinator,
            "freeze coordinator": self.freeze_coordinator,
            "cut": lambda random: self._ways(random, lambda way: way.cut()),
            "lose replies": self.lose_replies,
            "lose requests": self.lose_requests,
            "stall": self.stall,
            "delay": lambda random: self._slow(random, lambda way, to: way.delay(to, random.uniform(0.05, 0.6))),
            "drip": lambda random: self._slow(random, lambda way, to: way.drip(to, 20_000)),
            "cut at reply": self.cut_at_reply,
            "connection churn": self.churn,
            "block metrics": lambda random: self._block(random, self.ways),
            "block renewals": lambda random: self._block(random, self.renewal_ways),
            **self.store_faults(),
        }

    def store_faults(self) -> Mapping[str, Fault]:
        """Return the faults of this kind of store."""
        return {"kill store": self.kill_embedded, "freeze store": self.freeze_embedded, "kill both": self.kill_both}

    # Coordinators and the ways to them.

    def kill_coordinator(self, random: Random) -> None:
        """SIGKILL, and a new start."""
        one = random.choice(self.coordinators)
        with self.alone(f"coordinator {one.address}") as free:
            if free:
                one.kill()
                time.sleep(random.choice((0.0, duration(random))))
                start(one)

    def freeze_coordinator(self, random: Random) -> None:
        """SIGSTOP, for as long as it may take: its event loop stands still, and then goes on with what is old."""
        one = random.choice(self.coordinators)
        with self.alone(f"coordinator {one.address}") as free:
            if free and one.process is not None:
                one.process.send_signal(signal.SIGSTOP)
                time.sleep(duration(random))
                one.process.send_signal(signal.SIGCONT)

    def _ways(self, random: Random, do: Callable[[Proxy], None]) -> list[Proxy]:
        ways = [*self.ways, *self.renewal_ways]
        chosen = ways if random.random() < 0.4 else [random.choice(ways)]
        for way in chosen:
            do(way)
        return chosen

    def lose_replies(self, random: Random) -> None:
        """What is asked arrives, no answer comes back; then all is reset."""
        self._lose(random, TO_CLIENT)

    def lose_requests(self, random: Random) -> None:
        """Nothing arrives; then all is reset."""
        self._lose(random, TO_SERVER)

    def _lose(self, random: Random, to: str) -> None:
        chosen = self._ways(random, lambda way: way.drop(to))
        time.sleep(duration(random))
        for way in chosen:
            way.cut()

    def stall(self, random: Random) -> None:
        """Nothing goes one way for a while; then it arrives, late."""
        to = random.choice((TO_SERVER, TO_CLIENT))
        chosen = self._ways(random, lambda way: way.stall(to))
        time.sleep(duration(random))
        for way in chosen:
            way.flow(to)

    def _slow(self, random: Random, do: Callable[[Proxy, str], None]) -> None:
        to = random.choice((TO_SERVER, TO_CLIENT))
        chosen = self._ways(random, lambda way: do(way, to))
        time.sleep(duration(random))
        for way in chosen:
            way.cut()

    def cut_at_reply(self, random: Random) -> None:
        """Reset connections as the answer comes: what was asked is done, and nobody is told."""
        self._ways(random, lambda way: way.cut_at_reply(random.randrange(1, 4)))
        time.sleep(0.5)

    def churn(self, random: Random) -> None:
        """Reset all connections again and again."""
        for _ in range(random.randrange(3, 9)):
            self._ways(random, lambda way: way.cut())
            time.sleep(random.uniform(0.05, 0.3))

    def _block(self, random: Random, ways: list[Proxy]) -> None:
        to = random.choice((TO_SERVER, TO_CLIENT))
        for way in ways:
            way.stall(to)
        time.sleep(duration(random))
        for way in ways:
            way.flow(to)

    # The embedded store.

    def _embedded_pid(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.coordinators[0].store_pid
        return 0

    def kill_embedded(self, random: Random) -> None:
        """SIGKILL: its coordinator starts it again."""
        with self.alone("store") as free, self.alone(f"coordinator {self.coordinators[0].address}") as awake:
            if free and awake and (before := self._embedded_pid()):
                self._signal(before, signal.SIGKILL)
                until(lambda: self._embedded_pid() not in (before, 0))

    def freeze_embedded(self, random: Random) -> None:
        """SIGSTOP."""
        with self.alone("store") as free:
            if free and (pid := self._embedded_pid()):
                self._signal(pid, signal.SIGSTOP)
                time.sleep(duration(random))
                self._signal(pid, signal.SIGCONT)

    def kill_both(self, random: Random) -> None:
        """SIGKILL of store and coordinator."""
        one = self.coordinators[0]
        with self.alone("store") as free, self.alone(f"coordinator {one.address}") as awake:
            if free and awake:
                self._signal(self._embedded_pid(), signal.SIGKILL)
                one.kill()
                start(one)

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def heal(self) -> None:
        """Let nothing of the faults stay; they are all over."""
        for way in [*self.ways, *self.renewal_ways]:
            way.cut()

    @property
    def logs(self) -> str:
        """What the coordinators said."""
        return "\n".join(one.log.read_text()[-20000:] for one in self.coordinators)

    def close(self) -> None:
        """End all of it."""
        self.stack.close()


class RedisSite(Site):
    """Two coordinators on one server, each through a proxy of its own; what the server keeps is up to the seed."""

    def start(self, random: Random) -> None:
        """Start it with one of: each write on disk; each second's; only what SAVE wrote."""
        self.keeps = random.choice(("always", "everysec", "snapshot"))
        self.lossy = self.keeps != "always"
        library = find_faketime() if random.random() < 0.3 else None
        self._clock = WallClock(library) if library else None
        options = ("appendonly no",) if self.keeps == "snapshot" else ("appendonly yes", f"appendfsync {self.keeps}")
        binary = None if self._clock else shutil.which("redis-server")
        self.server = Node(*options, binary=binary or str(find_server().path), clock=self._clock)
        self.stack.callback(self.server.close)
        self.bootstrap(self.server.url)
        if self.keeps == "snapshot":
            self.server.ask("SAVE")
        self.store_ways = [Proxy(self.server.address) for _ in range(2)]
        for way in self.store_ways:
            self.stack.callback(way.close)
        self.serve(*(f"redis://{way.address}" for way in self.store_ways))

    def open_store(self) -> Any:
        """Connect to the server, past the proxies."""
        return redis.Redis(unix_socket_path=str(self.server.socket), socket_timeout=5)

    def store_faults(self) -> Mapping[str, Fault]:
        """Return what can happen to one server."""
        faults: dict[str, Fault] = {
            "kill store": self.kill_store,
            "freeze store": self.freeze_store,
            "cut store": lambda random: random.choice(self.store_ways).cut(),
            "store loses replies": self.lose_store_replies,
            "store connection stalls": self.stall_store,
            "no memory": self.no_memory,
        }
        if self.keeps == "snapshot":
            faults |= {"save": self.save, "wipe store": self.wipe}
        if self._clock:
            faults["store's clock steps"] = self.step_clock
        return faults

    def kill_store(self, random: Random) -> None:
        """SIGKILL, and a new start on what it kept."""
        with self.alone("store") as free:
            if free:
                self.server.kill()
                self.on_loss()
                time.sleep(random.choice((0.0, random.uniform(*_SHORT_S), random.uniform(*_LONG_S))))
                self.server.start()

    def wipe(self, random: Random) -> None:
        """SIGKILL, and a new start on nothing; an operator opens it as a store that lost its data."""
        with self.alone("store") as free:
            if free:
                self.server.kill()
                self.on_loss()
                (self.server.directory / "dump.rdb").unlink(missing_ok=True)
                self.server.start()
                self.bootstrap(self.server.url, "--lost-data")
                self.server.ask("SAVE")  # else the next kill leaves a store that nobody has opened

    def save(self, random: Random) -> None:
        """SAVE: the state that the next kill goes back to."""
        with self.alone("store") as free:
            if free:
                self.server.ask("SAVE")

    def freeze_store(self, random: Random) -> None:
        """SIGSTOP."""
        with self.alone("store") as free:
            if free:
                self.server.freeze()
                time.sleep(duration(random))
                self.server.thaw()

    def lose_store_replies(self, random: Random) -> None:
        """What a coordinator writes arrives, and it is not told."""
        way = random.choice(self.store_ways)
        way.drop(TO_CLIENT)
        time.sleep(random.uniform(*_SHORT_S))
        way.cut()

    def stall_store(self, random: Random) -> None:
        """What a coordinator writes arrives late, or its answers do."""
        way, to = random.choice(self.store_ways), random.choice((TO_SERVER, TO_CLIENT))
        way.stall(to)
        time.sleep(duration(random))
        way.flow(to)

    def no_memory(self, random: Random) -> None:
        """-OOM for whatever needs memory."""
        with self.alone("store") as free:
            if free:
                self.server.ask("CONFIG", "SET", "maxmemory", "1")
                time.sleep(random.uniform(*_SHORT_S))
                self.server.ask("CONFIG", "SET", "maxmemory", "0")

    def step_clock(self, random: Random) -> None:
        """Let the store's clock step forward or back, by less than the lock-delay or by far more; it stays there."""
        assert self._clock
        ahead = random.choice((0.5, -0.5, 20.0, -20.0))
        self.clock_slack_s += max(0.0, min(ahead, LOCK_DELAY_S))
        self.clock_ahead_s = max(self.clock_ahead_s, abs(ahead))
        self._clock.set(ahead)
        time.sleep(random.uniform(0.5, 2.0))
        self._clock.set(0)

    def heal(self) -> None:
        """Let nothing of the faults stay."""
        for way in self.store_ways:
            way.cut()
        super().heal()


def make_site(topology: str, random: Random, variant: str | None = None) -> Site:
    """Start a site of a kind: ``embedded``, ``redis``, ``sentinel`` or ``cluster``."""
    from tests.faults.chaos.replicated import ClusterChaos, SentinelChaos

    kinds = {"embedded": Site, "redis": RedisSite, "sentinel": SentinelChaos, "cluster": ClusterChaos}
    return kinds[topology](random, variant)
