"""Whatever comes over a real socket, message or not: no call fails inside the coordinator."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest
import runlease
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runlease.status import Details
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, runs_pb2

from tests.support.messages import messages
from tests.support.rawcalls import TIMEOUT_S, Stubs, drained, opening, ref, refused, wish

RAW = {
    "garbage": b"\xff" * 40,
    "cut": b"\x0a\x7f\x0a",
    "no utf-8": b"\x0a\x04\x0a\x02\xff\xfe",
    "group": b"\x0b\x0b\x0b",
}
METHODS = ["LeaseService/Acquire", "LeaseService/Renew", "RunService/GetRun", "RunService/ListRuns"]


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message(stubs: Stubs, method: str, raw: bytes) -> None:
    before = stubs.stored()
    call = stubs.channel.unary_unary(f"/runlease.v1.{method}")
    assert refused(call, raw) == "(request)"
    assert stubs.stored() == before


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_bytes_that_are_no_message_within_a_stream(stubs: Stubs, project: str, fence: int, raw: bytes) -> None:
    before = stubs.log(project)
    call = stubs.channel.stream_stream("/runlease.v1.MetricService/Append")
    assert refused(call, iter([raw])) == "(request)"
    assert refused(call, iter([opening(project, fence).SerializeToString(), raw])) == "(request)"
    assert stubs.log(project) == before


def test_fields_of_another_type_count_as_missing(stubs: Stubs) -> None:
    # Field 1 as a number, where a message is expected.
    call = stubs.channel.unary_unary("/runlease.v1.LeaseService/Acquire")
    assert refused(call, b"\x08\x01") == "run.project"


def test_a_message_beyond_all_bounds(stubs: Stubs, project: str) -> None:
    before = stubs.stored()
    huge = wish(project, notes="x" * (17 << 20))
    # The SDK's own channels would not even send it.
    with grpc.insecure_channel(stubs.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = leases_pb2_grpc.LeaseServiceStub(channel).Acquire
        refused(call, huge, code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert stubs.stored() == before


def test_the_longest_holder_is_still_told(stubs: Stubs, project: str) -> None:
    # Given texts as long as allowed, in the widest characters: 8 KiB of trailing metadata are all that gRPC carries.
    texts = ("host", "user", "job_id", "group", "sdk_version", "boot_id", "pid_namespace")
    run = ref(project.ljust(128, "x"), "😀" * 64)
    too_long = runs_pb2.Holder(**dict.fromkeys(texts, "😀" * 65))
    assert refused(stubs.leases.Acquire, wish(project, run=run, holder=too_long)) == "holder.host"
    holder = runs_pb2.Holder(**dict.fromkeys(texts, "😀" * 64), pid=-(2**63), process_started=2**64 - 1)
    stubs.leases.Acquire(wish(project, run=run, holder=holder), timeout=TIMEOUT_S)
    for mode, code in (("NEVER", grpc.StatusCode.ALREADY_EXISTS), ("ALLOW", grpc.StatusCode.FAILED_PRECONDITION)):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.leases.Acquire(wish(project, run=run, nonce="n2", mode=f"RESUME_MODE_{mode}"), timeout=TIMEOUT_S)
        assert caught.value.code() is code, caught.value
        told = Details(caught.value).holder
        assert told is not None
        assert (told.host, told.user) == (holder.host, holder.user)


UNARY = [
    (leases_pb2.AcquireRequest, "leases", "Acquire"),
    (leases_pb2.RenewRequest, "leases", "Renew"),
    (leases_pb2.ReleaseRequest, "leases", "Release"),
    (leases_pb2.BreakRequest, "leases", "Break"),
    (runs_pb2.GetRunRequest, "runs", "GetRun"),
    (runs_pb2.ListRunsRequest, "runs", "ListRuns"),
    (runs_pb2.UpdateRunRequest, "runs", "UpdateRun"),
    (runs_pb2.DeleteRunRequest, "runs", "DeleteRun"),
    (runs_pb2.UndeleteRunRequest, "runs", "UndeleteRun"),
    (runs_pb2.LinkRequest, "runs", "Link"),
    (metrics_pb2.HistoryRequest, "metrics", "History"),
]
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
EXAMPLES = settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(("kind", "service", "method"), UNARY, ids=lambda value: str(value)[-20:])
@EXAMPLES
@given(data=st.data())
def test_no_call_fails_inside(stubs: Stubs, kind: Any, service: str, method: str, data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    code = None
    try:
        drained(getattr(getattr(stubs, service), method)(message, timeout=TIMEOUT_S))
    except grpc.RpcError as error:
        code = error.code()
    assert code not in NEVER


@EXAMPLES
@given(entries=st.lists(messages(metrics_pb2.Entry), min_size=1, max_size=5))
def test_no_entry_fails_inside(stubs: Stubs, entries: list[Any]) -> None:
    nonce = base64.urlsafe_b64encode(json.dumps(len(entries)).encode()).decode().rstrip("=")
    request = wish("entries", run=ref("entries", runlease.generate_id()), nonce=nonce)
    grant = stubs.leases.Acquire(request, timeout=TIMEOUT_S).grant
    sent = [metrics_pb2.AppendRequest(entry=entry) for entry in entries]
    first = opening("entries", grant.fence, run=request.run)
    code = None
    try:
        stubs.append(first, *sent)
    except grpc.RpcError as error:
        code = error.code()
    assert code not in NEVER


@EXAMPLES
@given(request=messages(runs_pb2.WatchRequest))
def test_no_watch_fails_inside(stubs: Stubs, request: Any) -> None:
    stream = stubs.runs.Watch(request, timeout=TIMEOUT_S)
    code = None
    try:
        assert next(stream).cursor  # a sign of life comes at once, at the latest
    except grpc.RpcError as error:
        code = error.code()
    stream.cancel()
    assert code not in NEVER
