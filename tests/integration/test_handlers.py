"""What a handler raises that is no refusal of ours: calls and streams answer it alike, and the log has all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from runlease.v1 import runs_pb2, runs_pb2_grpc
from runlease_coordinator.rpc.errors import ErrorInterceptor


class Faulty(runs_pb2_grpc.RunServiceServicer):
    """GetRun and Watch are broken, UpdateRun ends with a status of its own, the rest is not built."""

    async def GetRun(self, request: runs_pb2.GetRunRequest, context: Any) -> runs_pb2.GetRunResponse:
        raise KeyError("secret of a call")

    async def Watch(self, request: runs_pb2.WatchRequest, context: Any) -> AsyncIterator[runs_pb2.WatchResponse]:
        yield runs_pb2.WatchResponse(cursor="c")
        raise KeyError("secret of a stream")

    async def UpdateRun(self, request: runs_pb2.UpdateRunRequest, context: Any) -> runs_pb2.UpdateRunResponse:
        await context.abort(grpc.StatusCode.DATA_LOSS, "its own words")
        raise AssertionError("abort raises")


async def answer_to(call: Any) -> tuple[grpc.StatusCode, str]:
    """Wait for a call or a stream, which must fail; returns its status."""
    try:
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
        else:
            _ = [message async for message in call]
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("it did not fail")


def test_the_caller_gets_a_status_and_the_log_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> list[tuple[grpc.StatusCode, str]]:
        server = grpc.aio.server(interceptors=(ErrorInterceptor(),))
        runs_pb2_grpc.add_RunServiceServicer_to_server(Faulty(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = runs_pb2_grpc.RunServiceStub(channel)
                return [
                    await answer_to(stub.GetRun(runs_pb2.GetRunRequest())),
                    await answer_to(stub.Watch(runs_pb2.WatchRequest())),
                    await answer_to(stub.UpdateRun(runs_pb2.UpdateRunRequest())),
                    await answer_to(stub.DeleteRun(runs_pb2.DeleteRunRequest())),
                ]
        finally:
            await server.stop(0)

    broken, in_stream, own, unbuilt = asyncio.run(play())
    assert broken == in_stream == (grpc.StatusCode.INTERNAL, "internal error: see the coordinator's log")
    assert own == (grpc.StatusCode.DATA_LOSS, "its own words")
    assert unbuilt == (
        grpc.StatusCode.UNIMPLEMENTED,
        "/runlease.v1.RunService/DeleteRun is not built in this version",
    )
    logged = [(record.getMessage(), str(record.exc_info and record.exc_info[1])) for record in caplog.records]
    assert logged == [
        ("/runlease.v1.RunService/GetRun failed", "'secret of a call'"),
        ("/runlease.v1.RunService/Watch failed", "'secret of a stream'"),
    ]
