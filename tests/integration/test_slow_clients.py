"""Clients that are slow, silent or many hold a bounded amount of a coordinator's memory, and nobody else up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from runlease.status import Details
from runlease.v1 import metrics_pb2_grpc, runs_pb2, runs_pb2_grpc
from runlease_coordinator.rpc import metrics as metric_rpc
from runlease_coordinator.rpc.errors import ErrorInterceptor
from runlease_coordinator.rpc.intake import Intake
from runlease_coordinator.rpc.streams import Streams

from tests.support.wait import until

MIB = 1 << 20


# The bounds of streams, over a real socket: a service that sends large answers without end.


class Endless(runs_pb2_grpc.RunServiceServicer):
    """Watch sends what nobody needs for as long as somebody reads it."""

    def __init__(self) -> None:
        self.sent = 0
        self.open = 0

    async def Watch(self, request: runs_pb2.WatchRequest, context: Any) -> AsyncIterator[runs_pb2.WatchResponse]:
        self.open += 1
        try:
            while True:
                self.sent += 1
                yield runs_pb2.WatchResponse(cursor="x" * MIB)
        finally:
            self.open -= 1


Story = Callable[[Endless, runs_pb2_grpc.RunServiceStub], Awaitable[None]]


def told(story: Story, streams: Streams) -> None:
    """Play a story of one client's connection to the service, behind the bounds given."""

    async def play() -> None:
        endless = Endless()
        server = grpc.aio.server(interceptors=(ErrorInterceptor(streams),))
        runs_pb2_grpc.add_RunServiceServicer_to_server(endless, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await story(endless, runs_pb2_grpc.RunServiceStub(channel))
        finally:
            await server.stop(0)

    asyncio.run(play())


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Read a stream to its end, which must be a refusal that tells when to come back; returns status and reason."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        details = Details(error)
        return error.code(), details.reason if details.retry_after_s else "nothing of a later try"
    raise AssertionError("it ended without a refusal")


def test_who_does_not_read_is_sent_no_more_and_told_when_he_does() -> None:
    async def story(endless: Endless, stub: Any) -> None:
        calls = [stub.Watch(runs_pb2.WatchRequest()) for _ in range(3)]
        for call in calls:
            await call.read()
        await asyncio.to_thread(until, lambda: endless.open == 0)  # by the patience with them, not by the clients
        sent = endless.sent
        for call in calls:
            assert await refusal_of(call) == (grpc.StatusCode.UNAVAILABLE, "SLOW_READER")
        assert endless.sent == sent

    told(story, Streams(unread_s=0.5))


def test_a_connection_has_so_many_streams_and_no_more() -> None:
    async def story(endless: Endless, stub: Any) -> None:
        calls = [stub.Watch(runs_pb2.WatchRequest()) for _ in range(2)]
        for call in calls:
            await call.read()
        refused = await refusal_of(stub.Watch(runs_pb2.WatchRequest()))
        assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        calls[0].cancel()
        await asyncio.to_thread(until, lambda: endless.open == 1)
        assert (await stub.Watch(runs_pb2.WatchRequest()).read()).cursor

    told(story, Streams(a_client=2))
    told(story, Streams(in_all=2))


def test_who_opens_a_stream_and_says_nothing_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_rpc, "FIRST_MESSAGE_S", 0.2)

    async def play() -> tuple[grpc.StatusCode, str]:
        never: Any = None  # it does not come to anything that needs a store
        service = metric_rpc.MetricService(never, never, never, never)
        server = grpc.aio.server(interceptors=(ErrorInterceptor(),))
        metrics_pb2_grpc.add_MetricServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await refusal_of(metrics_pb2_grpc.MetricServiceStub(channel).Append())
        finally:
            await server.stop(0)

    assert asyncio.run(play()) == (grpc.StatusCode.UNAVAILABLE, "SILENT_CLIENT")


def test_a_stream_has_room_for_one_entry_whatever_the_others_hold() -> None:
    async def story() -> None:
        intake = Intake(a_stream=10, in_all=15)
        one, other = intake.stream(), intake.stream()
        await one.enter(50)  # larger than all bounds: alone it goes
        await other.enter(4)
        waiting = [asyncio.create_task(one.enter(1)), asyncio.create_task(other.enter(1))]
        await asyncio.sleep(0)
        assert (intake.bytes, [task.done() for task in waiting]) == (54, [False, False])
        one.leave(50)
        await asyncio.gather(*waiting)
        other.leave(5)
        one.leave(1)
        assert intake.bytes == 0

    asyncio.run(story())


def test_names_are_told_once_and_no_more_than_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_rpc, "_KNOWN_NAMES", 3)
    names = metric_rpc.Names()
    assert names.unknown(["a", "b"]) == ["a", "b"]
    names.learn(["a", "b"])
    assert names.unknown(["b", "c"]) == ["c"]
    names.learn(["c", "d"])
    assert names.unknown(["a", "c", "d"]) == ["a"]
