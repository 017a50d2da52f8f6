"""The CPU time that a call costs the coordinator, beside what the same number of calls costs the echo server.

User and system time of all threads of the process, by its CPU clock. A slice of calls to the one follows
a slice of calls to the other, so that both see the same neighbours; what the coordinator does by itself meanwhile (its
sweep each second) is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc.aio
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2, runs_pb2_grpc

from tests.bench.leases import Echo, Runlease, new_name, run_ref
from tests.bench.processes import cpu_s
from tests.bench.rounds import Figure

#: Many clients share wake-ups of the server's loop, of the store's connection and of the store; one has them alone.
_CLIENTS = (32, 1)
#: Calls of a slice.
_SLICE = 250
CALLS = ("acquire", "renew", "get_run", "release")


_Call = Callable[[], Awaitable[None]]


async def _used_s(pid: int, calls: Iterable[_Call], clients: int) -> float:
    """Return the CPU time that a process used while these calls were made, in seconds."""
    left = iter(calls)

    async def work() -> None:
        for call in left:
            await call()

    before = cpu_s(pid)
    await asyncio.gather(*(work() for _ in range(clients)))
    return cpu_s(pid) - before


class Coordinator:
    """The four calls on runs of one's own."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Take a channel to the coordinator."""
        self._own = Runlease(channel)
        self._leases: Any = leases_pb2_grpc.LeaseServiceStub(channel)
        self._runs: Any = runs_pb2_grpc.RunServiceStub(channel)
        self._fences: dict[str, int] = {}

    async def acquire(self, name: str) -> None:
        self._fences[name] = (await self._own.acquire(name)).grant.fence

    async def renew(self, name: str) -> None:
        await self._own.renew(name, self._fences[name])

    async def get_run(self, name: str) -> None:
        await self._runs.GetRun(runs_pb2.GetRunRequest(run=run_ref(name)))

    async def release(self, name: str) -> None:
        await self._leases.Release(
            leases_pb2.ReleaseRequest(
                run=run_ref(name), fence=self._fences.pop(name), outcome=runs_pb2.RUN_STATE_FINISHED
            )
        )


async def _round(
    own: Coordinator, pid: int, echo: Echo, echo_pid: int, clients: int, slices: int
) -> dict[str, list[float]]:
    """Return by kind of call what it cost the coordinator and, beside it, the echo server: microseconds a call."""
    used = {title: [0.0, 0.0] for title in CALLS}
    for _ in range(slices):
        names = [new_name() for _ in range(_SLICE)]
        for title in CALLS:
            call = getattr(own, title)
            used[title][0] += await _used_s(pid, [partial(call, name) for name in names], clients)
            used[title][1] += await _used_s(echo_pid, [echo.once] * _SLICE, clients)
    return {title: [each / slices / _SLICE * 1e6 for each in pair] for title, pair in used.items()}


async def figures(
    channel: grpc.aio.Channel, pid: int, echo: Echo, echo_pid: int, calls: int, rounds: int
) -> AsyncIterator[Figure]:
    """Yield microseconds a call, for about so many calls of each kind a round; the first round warms up."""
    own = Coordinator(channel)
    for clients in _CLIENTS:
        slices = max(1, calls // _SLICE) if clients > 1 else 1
        await _round(own, pid, echo, echo_pid, clients, slices)
        found = [await _round(own, pid, echo, echo_pid, clients, slices) for _ in range(rounds)]
        for title in CALLS:
            values = {name: [one[title][of] for one in found] for of, name in enumerate(("runlease", "echo"))}
            who = f"{clients} clients" if clients > 1 else "1 client"
            yield Figure(f"CPU of the coordinator, {title}, {who}", "us/call", values)
