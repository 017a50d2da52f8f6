"""The CPU time that a call costs the coordinator, beside what the same number of calls costs the echo server.

User and system time of the process from /proc, over some thousand calls at 32 clients; what the coordinator does by
itself meanwhile (its sweep each second) is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import grpc.aio
from runlease.v1 import leases_pb2, leases_pb2_grpc, runs_pb2, runs_pb2_grpc

from tests.bench.leases import Echo, Runlease, new_name, run_ref
from tests.bench.processes import cpu_s
from tests.bench.rounds import Figure

_CLIENTS = 32
CALLS = ("acquire", "renew", "get_run", "release")


async def _microseconds(pid: int, calls: list[Callable[[], Awaitable[None]]]) -> float:
    """Return the CPU time of a process a call, in microseconds."""
    left: Iterator[Callable[[], Awaitable[None]]] = iter(calls)

    async def work() -> None:
        for call in left:
            await call()

    before = cpu_s(pid)
    await asyncio.gather(*(work() for _ in range(_CLIENTS)))
    return (cpu_s(pid) - before) / len(calls) * 1e6


class Coordinator:
    """The four calls on runs of one's own, each measured by itself."""

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        """Take a channel to the coordinator and its process ID."""
        self._own = Runlease(channel)
        self._leases: Any = leases_pb2_grpc.LeaseServiceStub(channel)
        self._runs: Any = runs_pb2_grpc.RunServiceStub(channel)
        self._pid = pid

    async def round(self, count: int) -> dict[str, float]:
        """Acquire, renew, read and release so many new runs; returns microseconds a call of each kind."""
        fences: dict[str, int] = {}

        async def acquire(name: str) -> None:
            fences[name] = (await self._own.acquire(name)).grant.fence

        async def renew(name: str) -> None:
            await self._own.renew(name, fences[name])

        async def get_run(name: str) -> None:
            await self._runs.GetRun(runs_pb2.GetRunRequest(run=run_ref(name)))

        async def release(name: str) -> None:
            await self._leases.Release(
                leases_pb2.ReleaseRequest(run=run_ref(name), fence=fences[name], outcome=runs_pb2.RUN_STATE_FINISHED)
            )

        names = [new_name() for _ in range(count)]
        return {
            title: await _microseconds(self._pid, [partial(call, name) for name in names])
            for title, call in zip(CALLS, (acquire, renew, get_run, release), strict=True)
        }


async def figures(
    channel: grpc.aio.Channel, pid: int, echo: Echo, echo_pid: int, calls: int, rounds: int
) -> AsyncIterator[Figure]:
    """Yield microseconds a call; a round of echo goes before each round of ours."""
    own = Coordinator(channel, pid)
    found: list[tuple[float, dict[str, float]]] = []
    for number in range(-1, rounds):  # the first warms up
        bare = await _microseconds(echo_pid, [echo.once] * calls)
        ours = await own.round(calls)
        if number >= 0:
            found.append((bare, ours))
    for title in CALLS:
        values = {"runlease": [ours[title] for _, ours in found], "echo": [bare for bare, _ in found]}
        yield Figure(f"CPU of the coordinator, {title}", "us/call", values)
