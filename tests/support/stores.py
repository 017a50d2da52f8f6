"""A real store server and everything that runs on it, driven from synchronous tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import redis
from runlease.ids import canonical_id
from runlease.v1 import metrics_pb2
from runlease_coordinator.domain.leases import Acquisition, Grant, ResumeMode
from runlease_coordinator.domain.metrics import Entry, EntryKind, Series, Writer
from runlease_coordinator.domain.runs import Holder, RunState
from runlease_coordinator.history.archive import ArchivedLog
from runlease_coordinator.history.compactor import Compactor
from runlease_coordinator.history.reads import HistoryReader, Query
from runlease_coordinator.store.archive import ArchiveStore
from runlease_coordinator.store.embedded import EmbeddedStore
from runlease_coordinator.store.keys import partition_keys, run_keys
from runlease_coordinator.store.leases import LeaseStore
from runlease_coordinator.store.limits import LimitStore
from runlease_coordinator.store.metrics import MetricStore
from runlease_coordinator.store.records import checkpoint_json
from runlease_coordinator.store.runs import RunStore, Snapshot
from runlease_coordinator.store.store import Store
from runlease_coordinator.store.sweeper import Sweeper
from runlease_coordinator.store.wakeups import Wakeups

from tests.support.objects import MemoryObjects

_T = TypeVar("_T")

#: Long enough for any call here, short enough that a hang is a failure.
CALL_TIMEOUT_S = 30.0
TTL_US = 30_000_000
HOLDER = Holder(
    host="trainer-17.cluster.example",
    pid=12345,
    user="ada",
    job_id="4711",
    sdk_version="0.1.0",
    boot_id="0f0a9c1e-6c1b-4f0e-9f3e-1a2b3c4d5e6f",
    pid_namespace="pid:[4026531836]",
    process_started=123456789,
)


class LiveStore:
    """One embedded server and the store's operations over it, on an event loop in a thread of its own."""

    def __init__(self, server_binary: str | None = None, *, lock_delay_us: int = 0, url: str = "") -> None:
        """Start a server, or use the one of another `LiveStore` in another process, at its `url`."""
        self.directory = Path(tempfile.mkdtemp(prefix="rl-", dir=None if url else "/tmp"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="live-store", daemon=True)
        self._thread.start()
        self._closers: list[Store] = []
        with mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(self.directory)}):
            self.embedded = EmbeddedStore(self.directory / "data", server_binary)
        try:
            if not url:
                self.run(self.embedded.start())
            self.url = url or self.embedded.url
            self.store = self.connect()
            self.run(self.store.bootstrap("embedded", max_ttl_us=60_000_000, replicas=0))
        except BaseException:  # whatever it was, no server may live on
            self.close()
            raise
        self.wakeups = Wakeups(self.store.place)
        self._loop.call_soon_threadsafe(self.wakeups.start)
        self.leases = LeaseStore(self.store, self.wakeups, lock_delay_us)
        self.sweeper = Sweeper(self.store)
        self.runs = RunStore(self.store)
        self.metrics = MetricStore(self.store)
        self.limits = LimitStore(self.store)
        self.archive = ArchiveStore(self.store, "live-store")
        self.objects = MemoryObjects()
        #: Driven by tests that want it; nothing is archived by itself.
        self.compactor = Compactor(self.archive, self.runs, self.objects)
        self.history = HistoryReader(self.runs, self.metrics, ArchivedLog(self.archive, self.objects))
        #: For what an operator, a failover or an accident does to a store.
        self.raw = self.raw_client()

    def run(self, call: Coroutine[Any, Any, _T], timeout_s: float = CALL_TIMEOUT_S) -> _T:
        """Run a coroutine on the store's loop."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(timeout_s)

    def spawn(self, call: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start a coroutine on the store's loop."""
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def connect(self) -> Store:
        """Return another coordinator's view of the store."""
        store = Store(self.url)
        self.run(store.start())
        self._closers.append(store)
        return store

    def raw_client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def now_us(self) -> int:
        seconds, microseconds = self.raw.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def wait_past(self, moment_us: int) -> None:
        """Return once the store's own clock is past a moment; each look is a round trip, not a sleep."""
        while self.now_us() <= moment_us:
            pass

    def signal_server(self, number: signal.Signals) -> None:
        assert self.embedded.pid is not None
        os.kill(self.embedded.pid, number)

    def close(self) -> None:
        if hasattr(self, "wakeups"):
            self.run(self.wakeups.close())
        for store in self._closers:
            self.run(store.close())
        self.run(self.embedded.stop())
        if hasattr(self, "raw"):
            self.raw.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # The operations, with what a test leaves out filled in.

    def acquire(
        self,
        project: str,
        run_id: str = "r",
        mode: str = "allow",
        *,
        nonce: str | None = None,
        ttl_us: int = TTL_US,
        resume_step: int | None = None,
        leases: LeaseStore | None = None,
        holder: Holder = HOLDER,
        **more: Any,
    ) -> Grant:
        wish = Acquisition(
            project=project,
            id=run_id,
            canonical_id=canonical_id(run_id),
            mode=ResumeMode(mode),
            nonce=nonce or os.urandom(8).hex(),
            ttl_us=ttl_us,
            holder=holder,
            resume_step=resume_step,
            **more,
        )
        return self.run((leases or self.leases).acquire(wish))

    def release(self, project: str, fence: int, outcome: str = "finished", run_id: str = "r") -> str:
        return self.run(self.leases.release(project, canonical_id(run_id), fence, RunState(outcome))).value

    def get(self, project: str, run_id: str = "r") -> Snapshot:
        return self.run(self.runs.get_run(project, run_id, canonical_id(run_id)))

    def read(
        self, project: str, run_id: str = "r", *, writers: Iterable[str] = ("main",), superseded: bool = False
    ) -> list[Series]:
        query = Query(frozenset(writers), superseded=superseded)
        return self.run(self.read_history(project, run_id, query))

    async def read_history(self, project: str, run_id: str, query: Query) -> list[Series]:
        moment = await self.history.moment(project, run_id, canonical_id(run_id))
        return [one async for one in self.history.series(moment, query)]

    def dump(self, project: str, run_id: str = "r") -> dict[str, Any]:
        """Return everything that the store has of a run, and of its partition's lists."""
        keys = run_keys(project, canonical_id(run_id))
        found: dict[str, Any] = {
            key: self.raw.hgetall(key) for key in (keys.run, keys.attempts, keys.ckptdoc, keys.seq)
        }
        for key in (keys.ckpt, keys.runs, keys.partition.live, keys.partition.projects):
            found[key] = self.raw.zrange(key, 0, -1, withscores=True)
        for key in (keys.log, keys.partition.events):
            found[key] = self.raw.execute_command("XLEN", key)
        return found

    def meta(self, project: str) -> str:
        return run_keys(project, "r").partition.meta

    def metas(self) -> list[str]:
        return [partition_keys(number).meta for number in range(64)]


def points_entry(seq: int, rows: list[tuple[int, float]], *, segment: int = 0, key: str = "loss") -> Entry:
    """Return an entry of one series with a value a row."""
    steps = [step for step, _ in rows]
    series = metrics_pb2.Series(key=key, values=[value for _, value in rows])
    message = metrics_pb2.Points(steps=steps, times=[float(seq)] * len(rows), series=[series])
    return Entry(seq, segment, EntryKind.POINTS, message.SerializeToString(), len(rows), max(steps))


def commit_entry(seq: int, step: int, fence: int, *, segment: int = 0, uri: str = "file:///c") -> Entry:
    return Entry(seq, segment, EntryKind.COMMIT, checkpoint_json(step, fence, uri, {}), 0, step)


def rewind_entry(seq: int, step: int, *, segment: int = 0) -> Entry:
    return Entry(seq, segment, EntryKind.REWIND, b"%d" % step, 0, step)


def writer_of(project: str, fence: int, *, name: str = "main", session: str = "s1", run_id: str = "r") -> Writer:
    return Writer(project, canonical_id(run_id), fence, name, session)
