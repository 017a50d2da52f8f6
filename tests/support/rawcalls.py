"""Calls past the SDK, which would refuse them: stubs, requests made of what a test gives, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from runlease.channel import open_channel
from runlease.status import Details
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, metrics_pb2_grpc, runs_pb2, runs_pb2_grpc

TIMEOUT_S = 20.0
MIB = 1 << 20


def _content(run: runs_pb2.Run) -> bytes:
    """Return what only a call changes: leases that other tests left expire by themselves meanwhile."""
    for field in ("state", "updated_us", "remaining_ms", "lock_delay_ms", "runtime_ms", "store_time_us"):
        run.ClearField(field)
    return run.SerializeToString(deterministic=True)


class Stubs:
    """The services, raw, and what is stored behind them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = open_channel(address)
        self.leases = leases_pb2_grpc.LeaseServiceStub(self.channel)
        self.runs = runs_pb2_grpc.RunServiceStub(self.channel)
        self.metrics = metrics_pb2_grpc.MetricServiceStub(self.channel)

    def stored(self) -> list[bytes]:
        """Return every run that is there, with what a call could have changed."""
        found: list[bytes] = []
        token = ""
        while True:
            page = self.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1000, page_token=token), timeout=TIMEOUT_S)
            found += map(_content, page.runs)
            token = page.next_page_token
            if not token:
                return sorted(found)

    def append(self, *requests: metrics_pb2.AppendRequest) -> list[metrics_pb2.AppendResponse]:
        return list(self.metrics.Append(iter(requests), timeout=TIMEOUT_S))

    def log(self, project: str) -> Any:
        """Return all that the run's log and record hold, as their readers see it."""
        ref = runs_pb2.RunRef(project=project, id="r")
        run = self.runs.GetRun(runs_pb2.GetRunRequest(run=ref), timeout=TIMEOUT_S).run
        request = metrics_pb2.HistoryRequest(run=ref, superseded=True)
        parts = self.metrics.History(request)
        series = [(one.key, list(one.steps), list(one.values)) for one in parts if one.steps]
        return run.points, run.next_step, [c.step for c in run.checkpoints], len(run.attempts[0].segments), series


def drained(answer: Any) -> Any:
    """Return an answer, all of it if it is a stream."""
    return list(answer) if hasattr(answer, "cancel") else answer


def refused(call: Callable[..., Any], *args: Any, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> str:
    """Make a call that must fail; returns the field that its BadRequest names."""
    with pytest.raises(grpc.RpcError) as caught:
        drained(call(*args, timeout=TIMEOUT_S))
    assert caught.value.code() is code, caught.value
    bad = Details(caught.value).get(error_details_pb2.BadRequest)
    if bad is None:
        return ""
    assert [bool(violation.description) for violation in bad.field_violations] == [True]
    return bad.field_violations[0].field


def ref(project: str = "p", run_id: str = "r") -> runs_pb2.RunRef:
    return runs_pb2.RunRef(project=project, id=run_id)


def wish(project: str, **more: Any) -> leases_pb2.AcquireRequest:
    fields: dict[str, Any] = {"run": ref(project), "mode": "RESUME_MODE_ALLOW", "nonce": "n1"}
    return leases_pb2.AcquireRequest(**fields | more)


def point(run_id: str, step: int = 1) -> leases_pb2.HistoryPoint:
    return leases_pb2.HistoryPoint(id=run_id, step=step)


def opening(project: str, fence: int, **more: Any) -> metrics_pb2.AppendRequest:
    fields: dict[str, Any] = {"run": ref(project), "fence": fence, "writer": "main", "session": "s1"}
    return metrics_pb2.AppendRequest(open=metrics_pb2.OpenWriter(**fields | more))


def entry(seq: int, **payload: Any) -> metrics_pb2.AppendRequest:
    return metrics_pb2.AppendRequest(entry=metrics_pb2.Entry(seq=seq, **payload))


def points(steps: Iterable[int] = (0, 1), times: Iterable[float] | None = None, **series: Any) -> metrics_pb2.Points:
    steps = list(steps)
    values = {"key": "loss", "values": [0.5] * len(steps)} | series
    return metrics_pb2.Points(steps=steps, times=times or [0.0] * len(steps), series=[metrics_pb2.Series(**values)])
