"""From a clean release to the next waiter's grant, with raw stubs in one process and by one clock.

The release is sent at t0, the grant is in the waiting client's hands at t1. Whoever was granted holds from then on, and
a new waiter goes to the end of the queue; the clock runs only once all places are taken. With two coordinators the
waiters are on both in turn. Beside it the same two calls, one after the other, on a run that nobody waits for.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import grpc
import grpc.aio
from redis.asyncio import Redis
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import run_keys

from tests.bench.leases import ATTEMPTS_A_RUN, HOLDER, PROJECT, new_name, run_ref
from tests.bench.rounds import Figure, Wanted, interleave, percentile

_WAIT_MS = 20_000
#: How often is looked whether all waiters have their places; outside of what is timed.
_LOOK_S = 0.001
#: How long the waiters of a run may take to get their places.
_PATIENCE_S = 30.0


class _Grant(NamedTuple):
    stub: Any
    fence: int
    at: float


class Handoff:
    """Passes runs on from waiter to waiter."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], store: Redis) -> None:
        """Take a channel to each coordinator, and the store, where the queue's length is read."""
        self._stubs: Iterator[Any] = cycle([leases_pb2_grpc.LeaseServiceStub(channel) for channel in channels])
        self._store = store

    async def passed_on(self, waiting: int, seconds: float) -> list[float]:
        """Return the milliseconds of each handoff within about so many seconds, so many waiters on the run."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await self._one_run(waiting, end, took)
        return took

    async def apart(self, seconds: float) -> list[float]:
        """Return the milliseconds of a release and an acquire by the same client, nobody waiting."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            name = new_name()
            grant = await self._granted(name)
            for _ in range(ATTEMPTS_A_RUN):
                began = time.perf_counter()
                await self._release(name, grant)
                grant = await self._granted(name)
                took.append((grant.at - began) * 1e3)
            await self._release(name, grant)
        return took

    async def _one_run(self, waiting: int, end: float, took: list[float]) -> None:
        name = new_name()
        grant = await self._granted(name)
        waiters = {asyncio.create_task(self._granted(name)) for _ in range(waiting)}
        try:
            await self._queued(name, waiting)
            for _ in range(ATTEMPTS_A_RUN):
                began = time.perf_counter()
                release = self._release(name, grant)
                done, waiters = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                (grant,) = (waiter.result() for waiter in done)
                await release
                took.append((grant.at - began) * 1e3)
                if time.perf_counter() > end:
                    return
                waiters.add(asyncio.create_task(self._granted(name)))
                await self._queued(name, waiting)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
            await self._queued(name, 0)
            await self._release(name, grant)

    async def _granted(self, name: str) -> _Grant:
        stub = next(self._stubs)
        request = leases_pb2.AcquireRequest(
            run=run_ref(name),
            mode=leases_pb2.RESUME_MODE_ALLOW,
            nonce=secrets.token_hex(16),
            ttl_ms=60_000,
            wait_ms=_WAIT_MS,
            holder=HOLDER,
        )
        while True:
            try:
                answer = await stub.Acquire(request)
                return _Grant(stub, answer.grant.fence, time.perf_counter())
            except grpc.aio.AioRpcError as error:  # 20 s are over: the place stays if one comes back
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise

    def _release(self, name: str, grant: _Grant) -> Any:
        """Send the release; it is on its way before anybody awaits it."""
        return grant.stub.Release(
            leases_pb2.ReleaseRequest(run=run_ref(name), fence=grant.fence, outcome=runs_pb2.RUN_STATE_PREEMPTED)
        )

    async def _queued(self, name: str, waiting: int) -> None:
        """Wait until so many have a place."""
        queue = run_keys(PROJECT, name).wait
        async with asyncio.timeout(_PATIENCE_S):
            while await self._store.zcard(queue) != waiting:  # noqa: ASYNC110 - nothing tells of places
                await asyncio.sleep(_LOOK_S)


async def figures(
    channels: Sequence[grpc.aio.Channel], store_url: str, seconds: float, rounds: int, *, where: str = ""
) -> AsyncIterator[Figure]:
    """Yield p50 and p99 with 1 and with 50 waiters on the run."""
    async with Redis.from_url(store_url) as store:
        handoff = Handoff(channels, store)
        for waiting in (1, 50):
            samples = await interleave(
                {
                    "runlease": partial(handoff.passed_on, waiting, seconds),
                    "release, then acquire": partial(handoff.apart, seconds / 2),
                },
                rounds,
            )
            for name, fraction in (("p50", 0.5), ("p99", 0.99)):
                values = {of: [percentile(each, fraction) for each in found] for of, found in samples.items()}
                wanted = [Wanted(20, False)] if name == "p50" else []
                who = "1 waiter" if waiting == 1 else f"{waiting} waiters"
                yield Figure(f"release to waiter's grant, {who}{where}, {name}", "ms", values, wanted, 2)
