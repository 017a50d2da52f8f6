"""`make bench`: measures what is to be fast; see the README beside this file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc.aio
import uvloop

from tests.bench import (
    cpu,
    fleet,
    handoff,
    idle,
    leases,
    listing,
    points,
    processes,
    reads,
    report,
    soak,
    startup,
    throttle,
    trackers,
)
from tests.bench.rounds import Figure, Wanted, interleave

#: The order of a full run. Memory comes first: an idle coordinator is one that has done nothing yet.
FIGURES = (
    *("memory", "start", "import", "runmemory", "leases32", "leases1", "renewals", "renewals1000", "cpu"),
    *("handoff", "handoff2", "list", "points", "pointmemory", "reads", "log", "trackers", "throttle", "soak"),
)
#: Where a figure's name is no name for a method.
_METHODS = {"import": "imports", "list": "listing"}
ROUNDS = 5
WORKERS = 32
_T = TypeVar("_T")


@dataclass
class Bench:
    """The servers that run, and how long a round takes."""

    address: str
    pid: int
    store_url: str
    echo_pid: int
    environment: dict[str, str]
    own: grpc.aio.Channel
    echo: grpc.aio.Channel
    etcd: grpc.aio.Channel | None
    seconds: float
    rounds: int

    async def contenders(self) -> dict[str, leases.Contender]:
        own = leases.Runlease(self.own)
        sample = await own.acquire(leases.new_name())
        found: dict[str, leases.Contender] = {"runlease": own, "echo": leases.Echo(self.echo, sample)}
        return found | ({"etcd": leases.Etcd(self.etcd)} if self.etcd else {})

    async def memory(self) -> AsyncIterator[Figure]:
        mib = processes.resident_mib(self.pid)
        yield Figure("memory of an idle coordinator", "MiB", {"runlease": [mib]}, [Wanted(120, False)])

    async def start(self) -> AsyncIterator[Figure]:
        took = [startup.start_to_first_grant_s() for _ in range(self.rounds)]
        yield Figure("start of a coordinator to its first grant", "s", {"runlease": took}, [Wanted(2, False)], 2)

    async def imports(self) -> AsyncIterator[Figure]:
        modules = ("runlease", "grpc")
        found = await interleave(
            {f"import {module}": partial(_later, partial(startup.import_ms, module)) for module in modules}, self.rounds
        )
        own, bare = found.values()
        over = [mine - other for mine, other in zip(own, bare, strict=True)]
        yield Figure("import runlease over import grpc", "ms", {"runlease": over}, [Wanted(100, False)])

    async def leases32(self) -> AsyncIterator[Figure]:
        values = await interleave(
            {
                name: partial(leases.rate, contender, WORKERS, self.seconds)
                for name, contender in (await self.contenders()).items()
            },
            self.rounds,
        )
        wanted = [Wanted(0.8, True, "echo")] + ([Wanted(0.7, True, "etcd")] if "etcd" in values else [])
        yield Figure(f"acquire + release, {WORKERS} clients", "pairs/s", values, wanted)

    async def leases1(self) -> AsyncIterator[Figure]:
        values = await interleave(
            {
                name: partial(leases.median_ms, contender, self.seconds)
                for name, contender in (await self.contenders()).items()
            },
            self.rounds,
        )
        wanted = [Wanted(1.5, False, "etcd")] if "etcd" in values else []
        yield Figure("acquire + release, 1 client, p50", "ms", values, wanted, 2)

    async def renewals(self) -> AsyncIterator[Figure]:
        own = leases.Runlease(self.own)
        held = [(name, (await own.acquire(name)).grant.fence) for name in (leases.new_name() for _ in range(WORKERS))]
        echo = leases.Echo(self.echo, await own.acquire(leases.new_name()))
        calls: dict[str, list[Callable[[], Awaitable[None]]]] = {
            "runlease": [partial(own.renew, name, fence) for name, fence in held],
            "echo": [echo.once] * WORKERS,
        }
        values = await interleave(
            {name: partial(leases.calls_a_second, workers, self.seconds) for name, workers in calls.items()},
            self.rounds,
        )
        yield Figure(f"renewals, {WORKERS} clients", "calls/s", values, [Wanted(2000, True)])

    async def renewals1000(self) -> AsyncIterator[Figure]:
        own = leases.Runlease(self.own)
        echo = leases.Echo(self.echo, await own.acquire(leases.new_name()))
        async for figure in fleet.figures(own, echo, self.seconds, self.rounds):
            yield figure

    async def cpu(self) -> AsyncIterator[Figure]:
        echo = leases.Echo(self.echo, await leases.Runlease(self.own).acquire(leases.new_name()))
        calls = int(500 * self.seconds)
        async for figure in cpu.figures(self.own, self.pid, echo, self.echo_pid, calls, self.rounds):
            yield figure

    async def handoff(self) -> AsyncIterator[Figure]:
        async for figure in handoff.figures([self.own], self.store_url, self.seconds, self.rounds):
            yield figure

    async def handoff2(self) -> AsyncIterator[Figure]:
        async with _pair() as pair:
            if pair is None:
                print("redis-server is not installed: handoff2 is left out", file=sys.stderr)
                return
            where = " on two coordinators"
            async for figure in handoff.figures(*pair, self.seconds, self.rounds, where=where):
                yield figure

    async def runmemory(self) -> AsyncIterator[Figure]:
        async for figure in idle.figures(self.own, self.store_url):
            yield figure
        async with _pair() as pair:
            if pair is None:
                print("redis-server is not installed: runmemory is of the embedded store alone", file=sys.stderr)
                return
            async for figure in idle.figures(pair[0][0], pair[1], where=", Redis with its defaults"):
                yield figure

    async def listing(self) -> AsyncIterator[Figure]:
        async for figure in listing.figures(self.rounds):
            yield figure

    async def points(self) -> AsyncIterator[Figure]:
        async for figure in points.figures(self.own, self.echo, self.seconds, self.rounds):
            yield figure

    async def pointmemory(self) -> AsyncIterator[Figure]:
        async for figure in points.memory(self.own, self.store_url):
            yield figure

    async def throttle(self) -> AsyncIterator[Figure]:
        async for figure in throttle.figures(self.environment, self.seconds, self.rounds):
            yield figure

    async def soak(self) -> AsyncIterator[Figure]:
        async for figure in soak.figures(10 * self.seconds):
            yield figure

    async def reads(self) -> AsyncIterator[Figure]:
        async for figure in reads.figures(self.rounds):
            yield figure

    async def log(self) -> AsyncIterator[Figure]:
        found = [await _later(partial(_log_cost, self.environment)) for _ in range(self.rounds)]

        def of(**keys: str) -> dict[str, list[float]]:
            return {name.replace("_", " "): [one[key] for one in found] for name, key in keys.items()}

        yield Figure("run.log of 5 scalars, p50", "us", of(runlease="log_p50_us", json_line="json_p50_us"), digits=1)
        yield Figure("run.log of 5 scalars, p99", "us", of(runlease="log_p99_us", json_line="json_p99_us"), digits=1)
        yield Figure("run.log of 5 scalars, mean, flat out", "us", of(runlease="burst_call_us"), digits=1)
        yield Figure("rows of 5 scalars acknowledged, one process", "rows/s", of(runlease="rows_a_second"))

    async def trackers(self) -> AsyncIterator[Figure]:
        async for figure in trackers.figures(self.environment, self.seconds, self.rounds):
            yield figure


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[list[grpc.aio.Channel], str] | None]:
    """Channels to two coordinators on one Redis, and its URL; None where redis-server is not installed."""
    with processes.two_coordinators() as found:
        if found is None:
            yield None
            return
        server, coordinators = found
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(processes.open_channel(each.address)) for each in coordinators]
            for channel in channels:
                await processes.ready(channel)
            yield channels, server.url


def _log_cost(environment: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.sdk"],
        cwd=processes.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


async def _later(call: Callable[[], _T]) -> _T:
    return call()


async def _measure(names: Sequence[str], seconds: float, rounds: int) -> list[Figure]:
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        own = stack.enter_context(processes.coordinator())
        assert own.process is not None
        echo_address, echo_pid = stack.enter_context(processes.echo())
        etcd_address = stack.enter_context(processes.etcd())
        if etcd_address is None:
            print("etcd is not installed (Debian: etcd-server): its comparisons are left out", file=sys.stderr)

        async def channel(address: str) -> grpc.aio.Channel:
            opened = await stack.enter_async_context(processes.open_channel(address))
            await processes.ready(opened)
            return opened

        bench = Bench(
            address=own.address,
            pid=own.process.pid,
            store_url=processes.embedded_url(own),
            echo_pid=echo_pid,
            environment=own.env | {"RUNLEASE_SILENT": "1"},
            own=await channel(own.address),
            echo=await channel(echo_address),
            etcd=await channel(etcd_address) if etcd_address else None,
            seconds=seconds,
            rounds=rounds,
        )
        for name in names:
            print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
            began = time.perf_counter()
            figures += [figure async for figure in getattr(bench, _METHODS.get(name, name))()]
            print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return figures


def main() -> None:
    """Measure, print the table, say in the exit status nothing about bounds: machines differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round (default: 3)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds a figure (default: {ROUNDS})")
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's values here")
    options = parser.parse_args()
    conditions = [f"before: {processes.conditions()}"]
    figures = uvloop.run(_measure(options.only or FIGURES, options.seconds, options.rounds))
    conditions.append(f"after: {processes.conditions()}")
    print(report.machine(), *conditions, sep="\n", end="\n\n")
    print(report.table(figures))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(figures, conditions), indent=1) + "\n")


if __name__ == "__main__":
    main()
