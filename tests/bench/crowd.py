"""Hundreds of clients that want the same run: each gets its turn once, in the order in which they came.

`python -m tests.bench.crowd --clients 500` queues them up one after the other on two coordinators, half of the clients
on each; then every holder gives the run back at once. Half-way one coordinator is killed: its waiters come back at the
other one and keep their places. Checked are the order, that each was granted once, under a higher fence than those
before, and that nobody was granted while somebody held.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import uvloop
from redis.asyncio import Redis
from runlease.channel import OPTIONS, target
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import run_keys

from tests.bench import processes, report
from tests.bench.leases import HOLDER, PROJECT, new_name, run_ref
from tests.bench.rounds import percentile
from tests.support.coordinator import CoordinatorProcess

_WAIT_MS = 20_000
_LOOK_S = 0.001
_RETRY_S = 0.05
_PATIENCE_S = 120.0


class Crowd:
    """The clients of one run."""

    def __init__(self, coordinators: Sequence[CoordinatorProcess], store: Redis, kill_at: int) -> None:
        """Take where to go, and which turn one coordinator is killed at."""
        self._coordinators, self._store, self._kill_at = coordinators, store, kill_at
        self._name = new_name()
        addresses = [each.address for each in coordinators]
        options = [*OPTIONS, ("grpc.enable_http_proxy", 0)]
        # Both lists name both: who loses the one goes to the other.
        self._channels = [
            grpc.aio.insecure_channel(target(",".join(order)), options=options)
            for order in (addresses, addresses[::-1])
        ]
        self._held_by: int | None = None
        self._released_at = 0.0
        #: Clients and fences in the order of the grants; milliseconds from each release to the next grant.
        self.order: list[int] = []
        self.fences: list[int] = []
        self.took_ms: list[float] = []

    async def run(self, clients: int) -> None:
        """Queue so many up behind a first holder, and let all of them have their turn."""
        stub: Any = leases_pb2_grpc.LeaseServiceStub(self._channels[0])
        fence = await self._granted(stub)
        turns = []
        async with asyncio.timeout(_PATIENCE_S):
            for number in range(clients):
                turns.append(asyncio.create_task(self._turn(number)))
                while await self._store.zcard(run_keys(PROJECT, self._name).wait) <= number:  # noqa: ASYNC110 - nothing tells of places
                    await asyncio.sleep(_LOOK_S)
        await self._release(stub, fence)
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*turns)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def _turn(self, number: int) -> None:
        stub: Any = leases_pb2_grpc.LeaseServiceStub(self._channels[number % 2])
        fence = await self._granted(stub)
        self.took_ms.append((time.perf_counter() - self._released_at) * 1e3)
        assert self._held_by is None, f"{number} was granted while {self._held_by} held"
        self._held_by = number
        self.order.append(number)
        self.fences.append(fence)
        if len(self.order) == self._kill_at:
            self._coordinators[0].kill()
        self._held_by = None
        await self._release(stub, fence)

    async def _granted(self, stub: Any) -> int:
        request = leases_pb2.AcquireRequest(
            run=run_ref(self._name),
            mode=leases_pb2.RESUME_MODE_ALLOW,
            nonce=secrets.token_hex(16),
            ttl_ms=30_000,
            wait_ms=_WAIT_MS,
            holder=HOLDER,
        )
        while True:
            try:
                return int((await stub.Acquire(request, timeout=_WAIT_MS / 1e3 + 5)).grant.fence)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(_RETRY_S)
                elif error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # 20 s are over: the place stays
                    raise

    async def _release(self, stub: Any, fence: int) -> None:
        self._released_at = time.perf_counter()
        request = leases_pb2.ReleaseRequest(run=run_ref(self._name), fence=fence, outcome=runs_pb2.RUN_STATE_PREEMPTED)
        while True:
            try:
                await stub.Release(request, timeout=5.0)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_RETRY_S)


async def measure(clients: int) -> Crowd:
    """Let so many clients have their turn; fails where one of the rules is broken."""
    with processes.two_coordinators() as both:
        assert both is not None, "redis-server is not on PATH"
        server, coordinators = both
        async with Redis.from_url(server.url) as store:
            crowd = Crowd(coordinators, store, clients // 2)
            await crowd.run(clients)
    assert crowd.order == [*range(clients)], f"not once each, in turn: {crowd.order}"
    assert crowd.fences == sorted(set(crowd.fences)), f"a fence that does not rise: {crowd.fences}"
    return crowd


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crowd", description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    options = parser.parse_args()
    print(report.machine(), processes.conditions(), sep="\n")
    began = time.perf_counter()
    took_ms = uvloop.run(measure(options.clients)).took_ms
    print(
        f"{options.clients} clients had their turns, once each and in order, in {time.perf_counter() - began:.1f} s "
        f"with all that was started for it; from release to grant p50 {percentile(took_ms, 0.5):.1f} ms, "
        f"p99 {percentile(took_ms, 0.99):.1f}, max {max(took_ms):.1f}"
    )


if __name__ == "__main__":
    main()
