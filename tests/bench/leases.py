"""Acquire + release at 1 and 32 clients, and renewals, each beside the same number of calls to the others.

All contenders are driven by the same code: workers in one process, one channel a contender, protobuf messages of
the real sizes built and parsed on the client. An operation is two unary calls; the echo server gets two calls with
a message of the size of an AcquireResponse.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import grpc.aio
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, metrics_pb2_grpc, runs_pb2

from tests.bench import etcd
from tests.bench.echo import ECHO
from tests.bench.rounds import percentile

#: Real runs have few attempts; a worker takes a new run after so many.
ATTEMPTS_A_RUN = 20
PROJECT = "bench"
#: What the SDK says of itself in a Slurm job.
HOLDER = runs_pb2.Holder(
    host="node-17.cluster",
    pid=48213,
    user="trainer",
    job_id="918273",
    sdk_version="0.1.0",
    boot_id="5f0f5b0e-7d1c-4a57-9c57-0f8f6d9fb1c2",
    pid_namespace="4026531836",
    process_started=123456,
)


class Contender(Protocol):
    """Something that takes and gives back a lease, as far as it can."""

    async def prepare(self, worker: int) -> None: ...
    async def pair(self, worker: int) -> None: ...


class Runlease:
    """Acquire and Release; the nonce is new each time, as the SDK's is."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = leases_pb2_grpc.LeaseServiceStub(channel)
        self._limits: Any = metrics_pb2_grpc.MetricServiceStub(channel)
        self._runs: dict[int, tuple[str, int]] = {}

    async def prepare(self, worker: int) -> None:
        self._runs.setdefault(worker, (new_name(), ATTEMPTS_A_RUN))
        if worker == 0:  # how fast it can be is the question, not how fast a project may
            unlimited = metrics_pb2.Limits(acquires=0)
            await self._limits.SetLimits(metrics_pb2.SetLimitsRequest(project=PROJECT, limits=unlimited))

    async def pair(self, worker: int) -> None:
        name, left = self._runs[worker]
        self._runs[worker] = (name, left - 1) if left > 1 else (new_name(), ATTEMPTS_A_RUN)
        answer = await self.acquire(name)
        await self._stub.Release(
            leases_pb2.ReleaseRequest(run=run_ref(name), fence=answer.grant.fence, outcome=runs_pb2.RUN_STATE_FINISHED)
        )

    async def acquire(self, name: str) -> leases_pb2.AcquireResponse:
        answer: leases_pb2.AcquireResponse = await self._stub.Acquire(
            leases_pb2.AcquireRequest(
                run=run_ref(name),
                mode=leases_pb2.RESUME_MODE_ALLOW,
                nonce=secrets.token_hex(16),
                ttl_ms=30_000,
                holder=HOLDER,
            )
        )
        return answer

    async def renew(self, name: str, fence: int) -> None:
        await self._stub.Renew(leases_pb2.RenewRequest(run=run_ref(name), fence=fence, held_by_own_clock=True))


class Echo:
    """Two calls with a message of the given size; the client builds and parses protobuf, the server does not."""

    def __init__(self, channel: grpc.aio.Channel, message: leases_pb2.AcquireResponse) -> None:
        self._call: Any = channel.unary_unary(
            ECHO,
            request_serializer=leases_pb2.AcquireResponse.SerializeToString,
            response_deserializer=leases_pb2.AcquireResponse.FromString,
        )
        self._message = message

    async def prepare(self, worker: int) -> None: ...

    async def pair(self, worker: int) -> None:
        await self._call(self._message)
        await self._call(self._message)

    async def once(self) -> None:
        await self._call(self._message)


class Etcd:
    """v3lock's Lock and Unlock; each worker's etcd lease is granted once, before the clock runs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        def method(path: str, request: Any, response: Any) -> Any:
            return channel.unary_unary(
                path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
            )

        self._grant = method(etcd.GRANT, etcd.LeaseGrantRequest, etcd.LeaseGrantResponse)
        self._lock = method(etcd.LOCK, etcd.LockRequest, etcd.LockResponse)
        self._unlock = method(etcd.UNLOCK, etcd.UnlockRequest, etcd.UnlockResponse)
        self._leases: dict[int, int] = {}

    async def prepare(self, worker: int) -> None:
        if worker not in self._leases:
            self._leases[worker] = (await self._grant(etcd.LeaseGrantRequest(TTL=3600))).ID

    async def pair(self, worker: int) -> None:
        name = b"bench/worker-%d" % worker
        answer = await self._lock(etcd.LockRequest(name=name, lease=self._leases[worker]))
        await self._unlock(etcd.UnlockRequest(key=answer.key))


async def rate(contender: Contender, workers: int, seconds: float) -> float:
    """Return pairs a second of that many workers."""
    await asyncio.gather(*(contender.prepare(worker) for worker in range(workers)))
    return await calls_a_second([partial(contender.pair, worker) for worker in range(workers)], seconds)


async def median_ms(contender: Contender, seconds: float) -> float:
    """Return the median duration of a single worker's pairs, in milliseconds."""
    await contender.prepare(0)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await contender.pair(0)
        took.append(time.perf_counter() - began)
    return percentile(took, 0.5) * 1e3


async def calls_a_second(workers: list[Callable[[], Awaitable[None]]], seconds: float) -> float:
    """Let each worker repeat its call until the time is up; returns calls a second of all."""
    began = time.perf_counter()
    end = began + seconds

    async def work(call: Callable[[], Awaitable[None]]) -> int:
        done = 0
        while time.perf_counter() < end:
            await call()
            done += 1
        return done

    total = sum(await asyncio.gather(*map(work, workers)))
    return total / (time.perf_counter() - began)


def run_ref(name: str) -> runs_pb2.RunRef:
    """Return the reference to a run of the bench's project."""
    return runs_pb2.RunRef(project=PROJECT, id=name)


def new_name() -> str:
    """Return the ID of a run that nobody has."""
    return f"lease-{secrets.token_hex(5)}"
