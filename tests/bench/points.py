"""Metric points a second through the Append stream, counted when acknowledged, that is: on disk.

Batches of 10 000 points (5 series of 2000 rows), one stream. Beside it the same messages to a bare stream that
stores nothing: the limit of grpc.aio on this machine.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2

from tests.bench.echo import SINK
from tests.bench.leases import Runlease

ROWS, SERIES = 2000, 5
BATCH = ROWS * SERIES
#: Batches on their way at most, as the SDK's window has it.
_WINDOW = 64


def _batch(seq: int) -> pb.AppendRequest:
    request = pb.AppendRequest()
    entry = request.entry
    entry.seq = seq
    first = (seq - 1) * ROWS
    entry.points.steps.extend(range(first, first + ROWS))
    entry.points.times.extend(1.7e9 + 0.1 * row for row in range(ROWS))
    for number in range(SERIES):
        values = (math.sin(row * 0.01 + number) for row in range(ROWS))
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


async def durable_points(channel: grpc.aio.Channel, batches: int) -> float:
    """Return points a second that a new run's log acknowledged."""
    name = f"points-{secrets.token_hex(5)}"
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

    return await _stream(call, batches, seq_of)


async def bare_points(channel: grpc.aio.Channel, batches: int) -> float:
    """Return points a second of the same messages to a server that drops them."""
    call: Any = channel.stream_stream(SINK, request_serializer=pb.AppendRequest.SerializeToString)()
    return await _stream(call, batches, lambda _, before: before + 1)


async def _stream(call: Any, batches: int, seq_of: Callable[[Any, int], int]) -> float:
    ready = [_batch(seq) for seq in range(1, _WINDOW * 2 + 1)]  # building them is the SDK's part, not the server's
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
    return batches * BATCH / took
