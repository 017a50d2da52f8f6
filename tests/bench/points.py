"""Metric points a second through the Append stream, counted when acknowledged, that is: on disk.

Batches of 10 000 points (5 series of 2000 rows), of 1000 and of 100, one stream. Beside it the same messages to a
bare stream that stores nothing: the limit of grpc.aio on this machine. And what a point takes in the store's memory.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc.aio
from redis.asyncio import Redis
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2
from runlease_coordinator.store.keys import run_keys

from tests.bench.echo import SINK
from tests.bench.leases import Runlease
from tests.bench.rounds import Figure, Wanted, interleave

SERIES = 5
#: Points of a batch, and how many such batches fill about a second; small ones are bound by their number.
BATCHES_A_SECOND = {10_000: 160, 1000: 800, 100: 2000}
#: Rows of the batches whose memory is measured: what gathers in 0.5 s at 100 steps a second, and a full batch.
_MEMORY_ROWS = {"drained every 0.5 s at 100 steps/s": 50, "full": 2000}
#: Points of the runs whose memory is measured.
_MEMORY_POINTS = 1_000_000
#: Batches on their way at most, as the SDK's window has it.
_WINDOW = 64


def _batch(seq: int, rows: int) -> pb.AppendRequest:
    request = pb.AppendRequest()
    entry = request.entry
    entry.seq = seq
    first = (seq - 1) * rows
    entry.points.steps.extend(range(first, first + rows))
    entry.points.times.extend(1.7e9 + 0.1 * row for row in range(rows))
    for number in range(SERIES):
        values = (math.sin(row * 0.01 + number) for row in range(rows))
        entry.points.series.add(key=f"train/metric_{number}", values=values)
    return request


class _Window:
    """Bounds what is on its way; knows how far the acknowledgements are."""

    def __init__(self) -> None:
        self.acked = 0
        self._moved = asyncio.Event()

    def move(self, acked: int) -> None:
        self.acked = acked
        self._moved.set()

    async def until(self, acked: int) -> None:
        while self.acked < acked:
            self._moved.clear()
            await self._moved.wait()


async def durable_points(channel: grpc.aio.Channel, batches: int, points: int, name: str = "") -> float:
    """Return points a second that a new run's log acknowledged, in batches of so many points."""
    name = name or f"points-{secrets.token_hex(5)}"
    stub: Any = metrics_pb2_grpc.MetricServiceStub(channel)
    unlimited = pb.Limits(run_points=0, run_bytes=0, project_points=0, project_bytes=0)
    await stub.SetLimits(pb.SetLimitsRequest(project="bench", limits=unlimited))
    grant = (await Runlease(channel).acquire(name)).grant
    opening = pb.OpenWriter(
        run=runs_pb2.RunRef(project="bench", id=name),
        fence=grant.fence,
        writer="main",
        session=secrets.token_hex(16),
    )
    call = stub.Append()
    await call.write(pb.AppendRequest(open=opening))
    opened = await call.read()
    assert opened.WhichOneof("message") == "opened", opened

    def seq_of(answer: pb.AppendResponse, _: int) -> int:
        assert answer.WhichOneof("message") == "ack", answer
        return answer.ack.seq

    return await _stream(call, batches, points, seq_of)


async def bare_points(channel: grpc.aio.Channel, batches: int, points: int) -> float:
    """Return points a second of the same messages to a server that drops them."""
    call: Any = channel.stream_stream(SINK, request_serializer=pb.AppendRequest.SerializeToString)()
    return await _stream(call, batches, points, lambda _, before: before + 1)


async def _stream(call: Any, batches: int, points: int, seq_of: Callable[[Any, int], int]) -> float:
    rows = points // SERIES
    ready = [
        _batch(seq, rows) for seq in range(1, _WINDOW * 2 + 1)
    ]  # building them is the SDK's part, not the server's
    window = _Window()

    async def send() -> None:
        for seq in range(1, batches + 1):
            await window.until(seq - _WINDOW)
            request = ready[seq % len(ready)]
            request.entry.seq = seq
            await call.write(request)
        await call.done_writing()

    async def answers() -> AsyncIterator[Any]:
        while (answer := await call.read()) is not grpc.aio.EOF:
            yield answer

    began = time.perf_counter()
    sender = asyncio.create_task(send())
    async for answer in answers():
        window.move(seq_of(answer, window.acked))
        if window.acked == batches:
            break
    took = time.perf_counter() - began
    await sender
    assert window.acked == batches
    return batches * points / took


async def figures(own: grpc.aio.Channel, bare: grpc.aio.Channel, seconds: float, rounds: int) -> AsyncIterator[Figure]:
    """Yield points a second for each size of batch."""
    for points, a_second in BATCHES_A_SECOND.items():
        batches = int(a_second * seconds)  # the store keeps the large ones in memory: about 100 kB each
        values = await interleave(
            {
                "runlease": partial(durable_points, own, batches, points),
                "bare stream": partial(bare_points, bare, batches, points),
            },
            rounds,
        )
        millions = {name: [value / 1e6 for value in each] for name, each in values.items()}
        wanted = [Wanted(4, True)] if points == max(BATCHES_A_SECOND) else []
        yield Figure(f"points acknowledged, batches of {points:_}".replace("_", " "), "million/s", millions, wanted, 2)


async def memory(channel: grpc.aio.Channel, store_url: str) -> AsyncIterator[Figure]:
    """Yield bytes of the store's memory a point: MEMORY USAGE of a run's log."""
    async with Redis.from_url(store_url) as store:
        for what, rows in _MEMORY_ROWS.items():
            name, points = f"points-{secrets.token_hex(5)}", rows * SERIES
            batches = _MEMORY_POINTS // points
            await durable_points(channel, batches, points, name)
            usage = await store.memory_usage(run_keys("bench", name).log, samples=0)
            assert usage
            found = {"runlease": [usage / (batches * points)]}
            yield Figure(f"memory of a point in the store, batches {what}", "bytes", found, digits=1)
