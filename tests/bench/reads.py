"""Reads of histories of 1 and 10 million points, raw and downsampled, by the SDK over loopback.

A run's log is 5 series in batches of 10 000 points (2000 rows each); all of it is in the store (hot), or in Parquet
on a local disk (archived). What is timed is `Client.history`, from the call to the columns in the client's hands.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

import redis
import runlease
from runlease.channel import open_channel
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import run_keys

from tests.bench import processes
from tests.bench.rounds import Figure, Wanted, interleave
from tests.support.coordinator import CoordinatorProcess
from tests.support.wait import until

ROWS, SERIES = 2000, 5
BATCH = ROWS * SERIES
DOWNSAMPLED = 2000
_PROJECT = "reads"
_FILL_S = 300.0


async def figures(rounds: int, millions: Sequence[int] = (1, 10)) -> AsyncIterator[Figure]:
    """Measure on coordinators of its own: one archives nothing, the other one all."""
    with (
        processes.coordinator("--archive-bytes", str(1 << 40)) as hot,
        processes.coordinator("--archive-bytes", "1", "--archive-after", "0") as cold,
        runlease.Client(hot.address) as hot_client,
        runlease.Client(cold.address) as cold_client,
    ):
        clients = {"hot": hot_client, "archived": cold_client}
        for million, process in itertools.product(millions, (hot, cold)):
            fill(process.address, f"m{million}", million * 1_000_000 // BATCH)
        for million in millions:
            _wait_for_archive(cold, f"m{million}")
        reads = {
            (million, max_points, where): partial(_seconds, client, f"m{million}", max_points)
            for million, max_points, (where, client) in itertools.product(millions, (0, DOWNSAMPLED), clients.items())
        }
        found = await interleave({_name(*read): call for read, call in reads.items()}, rounds)
        for read in reads:
            wanted = [Wanted(1, at_least=False)] if read[1] else []
            yield Figure(_name(*read), "s", {"runlease": found[_name(*read)]}, wanted, digits=2)


def _name(million: int, max_points: int, where: str) -> str:
    return f"read of {million} million points, {where}, {f'{max_points} a series' if max_points else 'raw'}"


def _wait_for_archive(process: CoordinatorProcess, run: str) -> None:
    """Return once nothing of a run is in the store any more."""
    with redis.Redis.from_url(processes.embedded_url(process)) as store:
        until(lambda: store.xlen(run_keys(_PROJECT, run).log) == 0)


async def _seconds(client: runlease.Client, run: str, max_points: int) -> float:
    began = time.perf_counter()
    found = client.history(_PROJECT, run, max_points=max_points or None)
    took = time.perf_counter() - began
    assert len(found.series) == SERIES
    if max_points:
        assert all(max_points // 2 < len(series.steps) <= max_points for series in found.series)
    return took


def fill(address: str, run: str, batches: int) -> None:
    """Log a run of so many batches."""
    with runlease.Client(address) as client, open_channel(address) as channel:
        client.set_limits(_PROJECT, run_points=0, run_bytes=0, project_points=0, project_bytes=0)
        grant = client.acquire(_PROJECT, run, nonce=run, resume="never", ttl_s=60)
        ref = runs_pb2.RunRef(project=_PROJECT, id=run)
        opening = pb.OpenWriter(run=ref, fence=grant.fence, writer="main", session="s")
        requests = itertools.chain([pb.AppendRequest(open=opening)], _entries(batches))
        answers = list(metrics_pb2_grpc.MetricServiceStub(channel).Append(requests, timeout=_FILL_S))
        assert answers[-1].ack.seq == batches, answers[-1]
        client.release(_PROJECT, run, grant.fence, outcome="finished")


def _entries(batches: int) -> Iterator[pb.AppendRequest]:
    values = [[math.sin(row * 0.01 + number) + row * 1e-5 for row in range(ROWS)] for number in range(SERIES)]
    for seq in range(1, batches + 1):
        first = (seq - 1) * ROWS
        request = pb.AppendRequest(entry=pb.Entry(seq=seq))
        points = request.entry.points
        points.steps.extend(range(first, first + ROWS))
        points.times.extend([1.7e9 + 0.1 * row for row in range(first, first + ROWS)])
        for number in range(SERIES):
            points.series.add(key=f"train/metric_{number}", values=values[number])
        yield request
