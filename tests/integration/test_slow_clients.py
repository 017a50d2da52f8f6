"""Clients that are slow, silent or many hold a bounded amount of a coordinator's memory, and nobody else up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from runlease.status import Details
from runlease.v1 import runs_pb2, runs_pb2_grpc
from runlease_coordinator.rpc.errors import ErrorInterceptor
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
        assert sent < 60  # what fits into windows on both sides
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
