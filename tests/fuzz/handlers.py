"""The target that is the whole coordinator: any bytes to any method, in process, over a real store."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from runlease.v1 import leases_pb2, metrics_pb2, runs_pb2
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.rpc.errors import ErrorInterceptor
from runlease_coordinator.rpc.leases import LeaseService
from runlease_coordinator.rpc.metrics import MetricService
from runlease_coordinator.rpc.runs import RunService
from runlease_coordinator.store.events import EventStore

from tests.support.stores import LiveStore

_NEVER = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_STREAM = ("Append",)
_ANSWERS = ("Append", "History", "Watch")
#: Of a stream that would go on for ever.
_ENOUGH = 20
_CALL_S = 20.0


def _below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


class Context:
    """What a handler knows of its call; remembers what became of it."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.OK
        self.details = ""
        self._written = 0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, response: Any) -> None:
        response.SerializeToString()
        self._written += 1
        is_idle = isinstance(response, runs_pb2.WatchResponse) and not response.HasField("event")
        if is_idle or self._written == _ENOUGH:
            raise asyncio.CancelledError  # as a caller that leaves

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailers: Any) -> None:
        assert sum(len(key) + len(value) for key, value in trailers) < 8192  # more, gRPC does not carry

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = code, details
        raise grpc.aio.AbortError


class Handlers:
    """All methods over one store with a run `p/r`, which is held under `fence`."""

    def __init__(self, store_url: str = "") -> None:
        self._live = live = LiveStore(url=store_url)
        live.leases.drain()  # so no call waits
        self._logger = logging.getLogger("runlease_coordinator")
        self._logger.addFilter(_below_error)
        events, tickets = EventStore(live.store, live.wakeups), Tickets(b"secret")
        services = {
            "LeaseService": (leases_pb2, LeaseService(live.leases, events, tickets, 60_000_000)),
            "RunService": (runs_pb2, RunService(live.runs, events)),
            "MetricService": (metrics_pb2, MetricService(live.metrics, live.limits, live.history, tickets)),
        }
        self._methods = [
            (method.name, live.run(self._wrapped(service, method)))
            for module, service in services.values()
            for method in module.DESCRIPTOR.services_by_name[type(service).__name__].methods
        ]
        self.fence = live.acquire("p").fence
        self.seeds = [self._seed(name, message) for name, message in self._messages()]

    async def _wrapped(self, service: Any, method: Any) -> Any:
        kind = "stream" if method.name in _STREAM else "unary", "stream" if method.name in _ANSWERS else "unary"
        make = getattr(grpc, f"{'_'.join(kind)}_rpc_method_handler")
        handler = make(getattr(service, method.name), method.input_type._concrete_class.FromString)

        async def continuation(details: Any) -> Any:
            return handler

        class Details:
            method_name = method.full_name

        details: Any = Details()
        details.method = f"/{method.full_name.rpartition('.')[0]}/{method.name}"
        return await ErrorInterceptor().intercept_service(continuation, details)

    def close(self) -> None:
        self._logger.removeFilter(_below_error)
        self._live.close()

    def __call__(self, data: bytes) -> None:
        """Send bytes to a method: refused without a trace in the store, or answered; never an internal error."""
        name, handler = self._methods[(data[0] if data else 0) % len(self._methods)]
        before = self._changes()
        context = Context()
        self._live.run(self._call(name, handler, data[1:], context), timeout_s=_CALL_S * 2)
        assert context.code not in _NEVER, f"{name}: {context.code} {context.details}"
        if context.code is grpc.StatusCode.INVALID_ARGUMENT and name not in _STREAM:
            counted = name == "Acquire"  # against its rate limit, where a script has refused it
            assert self._changes() <= before + counted, f"{name}: {context.details}"

    async def _call(self, name: str, handler: Any, raw: bytes, context: Context) -> None:
        read = handler.request_deserializer
        behavior = next(one for one in (handler.unary_unary, handler.unary_stream, handler.stream_stream) if one)
        request = self._requests(read, raw) if name in _STREAM else read(raw)
        try:
            async with asyncio.timeout(_CALL_S):
                response = await behavior(request, context)
            if response is not None:
                response.SerializeToString()
        except (grpc.aio.AbortError, asyncio.CancelledError):
            pass

    async def _requests(self, read: Any, raw: bytes) -> AsyncIterator[Any]:
        while raw:
            length = raw[0] | raw[1] << 8 if len(raw) > 1 else 0
            yield read(raw[2 : 2 + length])
            raw = raw[2 + length :]

    def _changes(self) -> int:
        return int(self._live.raw.info("persistence")["rdb_changes_since_last_save"])

    def _seed(self, name: str, messages: list[Any]) -> bytes:
        number = [method for method, _ in self._methods].index(name)
        raw = [message.SerializeToString() for message in messages]
        body = b"".join(struct.pack("<H", len(one)) + one for one in raw) if name in _STREAM else raw[0]
        return bytes([number]) + body

    def _messages(self) -> list[tuple[str, list[Any]]]:
        run, fence = runs_pb2.RunRef(project="p", id="r"), self.fence
        opened = metrics_pb2.OpenWriter(run=run, fence=fence, writer="main", session="s")
        entry = metrics_pb2.Entry(seq=1, points=metrics_pb2.Points(steps=[1], times=[1.0]))
        entry.points.series.add(key="loss", values=[0.5])
        commit = metrics_pb2.Entry(seq=2, commit=metrics_pb2.Commit(step=1, uri="file:///c", metadata={"a": "1"}))
        entries = [metrics_pb2.AppendRequest(entry=one) for one in (entry, commit)]
        wish = leases_pb2.AcquireRequest(run=run, mode=2, nonce="n", name="x", config={"lr": "1"}, wait_ms=5)
        wish.holder.host, wish.auto_keys[:] = "h", ["k"]
        fork = leases_pb2.AcquireRequest(run=runs_pb2.RunRef(project="p", id="f"), nonce="n2")
        fork.fork_from.id, fork.fork_from.step = "r", 1
        return [
            ("Acquire", [wish]),
            ("Acquire", [fork]),
            ("Renew", [leases_pb2.RenewRequest(run=run, fence=fence, held_by_own_clock=True)]),
            ("Release", [leases_pb2.ReleaseRequest(run=run, fence=fence + 1, outcome=2)]),
            ("Break", [leases_pb2.BreakRequest(run=run, fence=fence + 1, reason="why")]),
            ("GetRun", [runs_pb2.GetRunRequest(run=run)]),
            ("ListRuns", [runs_pb2.ListRunsRequest(project="p", states=[1], tags=["t"], text="r", page_size=3)]),
            ("UpdateRun", [runs_pb2.UpdateRunRequest(run=run, fence=fence, notes="n", summary={"a": "[1]"})]),
            ("DeleteRun", [runs_pb2.DeleteRunRequest(run=run, fence=fence, reason="r")]),
            ("UndeleteRun", [runs_pb2.UndeleteRunRequest(run=run, reason="r")]),
            ("Link", [runs_pb2.LinkRequest(run=run, continues_id="f", step=0)]),
            ("Watch", [runs_pb2.WatchRequest(project="p", id="r", after="*=0-0")]),
            ("History", [metrics_pb2.HistoryRequest(run=run, keys=["loss"], key_patterns=["l*"], page_points=1)]),
            ("GetLimits", [metrics_pb2.GetLimitsRequest(project="p", id="r")]),
            ("SetLimits", [metrics_pb2.SetLimitsRequest(project="q", limits=metrics_pb2.Limits(run_points=5))]),
            ("Append", [metrics_pb2.AppendRequest(open=opened), *entries]),
        ]
