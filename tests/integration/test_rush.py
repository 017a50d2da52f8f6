"""Many calls at once, as behind a failover: all are answered, and refusals leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import signal
import weakref
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
from runlease.status import Details
from runlease.v1 import runs_pb2, runs_pb2_grpc
from runlease_coordinator.domain.errors import RunNotFound
from runlease_coordinator.rpc.errors import ErrorInterceptor

from tests.support.coordinator import CoordinatorProcess

#: Far beyond the 1000 of which gRPC ends some, left to itself.
_CALLS, _CONNECTIONS = 4000, 8
_ABSENT = runs_pb2.GetRunRequest(run=runs_pb2.RunRef(project="rush", id="absent"))


def test_calls_that_wait_for_a_coordinator_are_all_answered(coordinator: CoordinatorProcess) -> None:
    assert coordinator.process is not None
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            stack.enter_context(grpc.insecure_channel(coordinator.address, options)) for _ in range(_CONNECTIONS)
        ]
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=30)
        stubs: list[Any] = [runs_pb2_grpc.RunServiceStub(channel) for channel in channels]
        coordinator.process.send_signal(signal.SIGSTOP)
        try:
            calls = [stubs[number % _CONNECTIONS].GetRun.future(_ABSENT, timeout=60) for number in range(_CALLS)]
        finally:
            coordinator.process.send_signal(signal.SIGCONT)
        assert {call.code() for call in calls} == {grpc.StatusCode.NOT_FOUND}


class Request:
    """What a call has in hand."""


class Refusing(runs_pb2_grpc.RunServiceServicer):
    """Knows no run."""

    def __init__(self) -> None:
        self.left: weakref.WeakSet[Request] = weakref.WeakSet()

    async def GetRun(self, request: runs_pb2.GetRunRequest, context: Any) -> runs_pb2.GetRunResponse:
        in_hand = Request()
        self.left.add(in_hand)
        raise RunNotFound(request.run.project, request.run.id)


def test_a_refusal_leaves_nothing_to_the_search_for_cycles() -> None:
    async def play() -> tuple[int, str]:
        service = Refusing()
        server = grpc.aio.server(interceptors=(ErrorInterceptor(),))
        runs_pb2_grpc.add_RunServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        gc.disable()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = runs_pb2_grpc.RunServiceStub(channel)
                reasons = set()
                for _ in range(20):
                    try:
                        await stub.GetRun(_ABSENT)
                    except grpc.aio.AioRpcError as error:
                        reasons.add(Details(error).reason)
                await server.stop(5)
                return len(service.left), *reasons
        finally:
            gc.enable()
            await server.stop(0)

    assert asyncio.run(play()) == (0, "RUN_NOT_FOUND")
