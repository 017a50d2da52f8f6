"""The renewals of 1000 runs that one process holds: flat out, and at the pace that their ttl asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

from tests.bench.leases import Echo, Runlease, new_name
from tests.bench.rounds import Figure, Wanted, interleave, percentile

RUNS = 1000
#: Calls on their way at a time when they go flat out.
_IN_FLIGHT = 64
#: A ttl of 30 s is renewed every 10 s.
_PACE_S = 10.0

_Call = Callable[[], Awaitable[None]]


class Round(NamedTuple):
    """What a round came to."""

    calls_a_second: float
    took_ms: list[float]


async def hold(own: Runlease) -> list[_Call]:
    """Acquire that many runs; returns a call for each that renews it."""
    names = [new_name() for _ in range(RUNS)]
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def one(name: str) -> _Call:
        async with gate:
            return partial(own.renew, name, (await own.acquire(name)).grant.fence)

    return list(await asyncio.gather(*map(one, names)))


async def flat_out(calls: Sequence[_Call], seconds: float) -> Round:
    """Repeat the calls in turn, so many in flight, until the time is up."""
    turns = cycle(calls)
    took: list[float] = []
    began = time.perf_counter()

    async def work() -> None:
        while (start := time.perf_counter()) < began + seconds:
            await next(turns)()
            took.append((time.perf_counter() - start) * 1e3)

    await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
    return Round(len(took) / (time.perf_counter() - began), took)


async def paced(calls: Sequence[_Call], seconds: float) -> Round:
    """Start each call at its own time, whatever became of those before."""
    turns = cycle(calls)
    took: list[float] = []
    began = time.perf_counter()

    async def one(due: float) -> None:
        await next(turns)()
        took.append((time.perf_counter() - due) * 1e3)  # from when it was due: a late start counts

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * RUNS / _PACE_S)):
            due = began + number * _PACE_S / RUNS
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
    return Round(len(took) / (time.perf_counter() - began), took)


async def figures(own: Runlease, echo: Echo, seconds: float, rounds: int) -> AsyncIterator[Figure]:
    """Yield the rate and the latencies of both paces."""
    calls: dict[str, Sequence[_Call]] = {"runlease": await hold(own), "echo": [echo.once]}
    for pace, drive, at in (("flat out", flat_out, f"{_IN_FLIGHT} in flight"), ("own pace", paced, "100 a second")):
        found = await interleave({name: partial(drive, each, seconds) for name, each in calls.items()}, rounds)
        if drive is flat_out:
            rates = {name: [one.calls_a_second for one in each] for name, each in found.items()}
            yield Figure(f"renewals of {RUNS} runs, {pace}", "calls/s", rates, [Wanted(2000, True)])
        for title, fraction in (("p50", 0.5), ("p99", 0.99)):
            values = {name: [percentile(one.took_ms, fraction) for one in each] for name, each in found.items()}
            yield Figure(f"renewals of {RUNS} runs, {at}, {title}", "ms", values, digits=2)
