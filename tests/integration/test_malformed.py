"""Malformed everything over a real socket: refused by name, and nothing is stored."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import pytest
import runlease
from google.rpc import error_details_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runlease.channel import open_channel
from runlease.status import Details
from runlease.v1 import leases_pb2, leases_pb2_grpc, metrics_pb2, metrics_pb2_grpc, runs_pb2, runs_pb2_grpc

from tests.support.coordinator import CoordinatorProcess
from tests.support.messages import messages

TIMEOUT_S = 20.0
MIB = 1 << 20
NAMES = {"": "", "slash": "a/b", "dot": ".a", "space": "a b", "line": "a\n", "umlaut": "ä", "mebibyte": "x" * MIB}


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


@pytest.fixture(scope="module")
def stubs(coordinator: CoordinatorProcess) -> Iterator[Stubs]:
    stubs = Stubs(coordinator.address)
    yield stubs
    stubs.channel.close()


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


ACQUIRE: list[tuple[str, dict[str, Any]]] = [
    *(("run.project", {"run": ref(name)}) for name in NAMES.values()),
    ("run.id", {"run": ref("p", "")}),
    ("run.id", {"run": ref("p", "x" * 65)}),
    ("run.id", {"run": ref("p", "x" * MIB)}),
    ("run.project", {"run": None}),
    ("mode", {"mode": 5}),
    ("mode", {"mode": 2**31 - 1}),
    ("mode", {"mode": -1}),
    ("nonce", {"nonce": ""}),
    ("nonce", {"nonce": "a b"}),
    ("nonce", {"nonce": "x" * 65}),
    ("nonce", {"nonce": "x" * MIB}),
    ("ttl_ms", {"ttl_ms": 1}),
    ("ttl_ms", {"ttl_ms": 4_999}),
    ("ttl_ms", {"ttl_ms": 60_001}),
    ("ttl_ms", {"ttl_ms": 2**32 - 1}),
    ("resume_step", {"resume_step": -1}),
    ("resume_step", {"resume_step": -(2**63)}),
    ("resume_step", {"resume_step": 2**53 - 1}),
    ("resume_step", {"resume_step": 2**63 - 1}),
    ("name", {"name": "x" * 257}),
    ("name", {"name": "x" * MIB}),
    ("name", {"name": "a\x00b"}),
    ("notes", {"notes": "x" * MIB}),
    ("tags.tags", {"tags": runs_pb2.Tags(tags=map(str, range(65)))}),
    ("tags.tags[1]", {"tags": runs_pb2.Tags(tags=["a", "x" * MIB])}),
    ("config['a']", {"config": {"a": "{"}}),
    ("config['a']", {"config": {"a": "[" * 100_000}}),
    ("config", {"config": {"": "1"}}),
    ("config", {"config": {"x" * MIB: "1"}}),
    ("config", {"config": {"a": '"' + "x" * MIB + '"'}}),
    ("holder.host", {"holder": runs_pb2.Holder(host="x" * MIB)}),
    ("holder.user", {"holder": runs_pb2.Holder(user="a\nb")}),
    ("wait_ms", {"wait_ms": 20_001}),
    ("wait_ms", {"wait_ms": 2**32 - 1}),
    ("resume_from.id", {"resume_from": point("")}),
    ("resume_from.id", {"resume_from": point("x" * MIB)}),
    ("resume_from.id", {"resume_from": point("another")}),
    ("resume_from.step", {"resume_from": point("r", -1)}),
    ("resume_from.step", {"resume_from": point("r", 2**53 - 1)}),
    ("resume_from.step", {"resume_from": point("r", 2**63 - 1)}),
    ("resume_from", {"resume_from": point("r"), "resume_step": 1}),
    ("fork_from.id", {"fork_from": point("")}),
    ("fork_from.id", {"fork_from": point("r")}),  # itself
    ("fork_from.id", {"fork_from": point("x" * 65)}),
    ("fork_from.step", {"fork_from": point("parent", -(2**63))}),
    ("fork_from.step", {"fork_from": point("parent", 2**63 - 1)}),
    ("fork_from", {"fork_from": point("parent"), "resume_step": 1}),
    ("fork_from", {"fork_from": point("parent"), "resume_from": point("r")}),
    ("proof_of_death.fence", {"proof_of_death": leases_pb2.ProofOfDeath()}),
    ("proof_of_death.fence", {"proof_of_death": leases_pb2.ProofOfDeath(fence=2**64 - 1)}),
    ("proof_of_death.boot_id", {"proof_of_death": leases_pb2.ProofOfDeath(fence=1, boot_id="x" * MIB)}),
    ("proof_of_death.boot_id", {"proof_of_death": leases_pb2.ProofOfDeath(fence=1, boot_id="a\n")}),
    ("proof_of_death.pid_namespace", {"proof_of_death": leases_pb2.ProofOfDeath(fence=1, pid_namespace="x" * 257)}),
    ("auto_keys", {"auto_keys": [f"k{number}" for number in range(9)]}),
    ("auto_keys[0]", {"auto_keys": [""], "auto_search": True}),
    ("auto_keys[1]", {"auto_keys": ["k", "x" * MIB]}),
    ("auto_keys[0]", {"auto_keys": ["a\x00b"]}),
]


@pytest.mark.parametrize(("field", "given"), ACQUIRE, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_acquire(stubs: Stubs, project: str, field: str, given: dict[str, Any]) -> None:
    before = stubs.stored()
    assert refused(stubs.leases.Acquire, wish(project, **given)) == field
    assert stubs.stored() == before


@pytest.mark.parametrize("fence", [0, 2**53, 2**63, 2**64 - 1])
def test_fences(stubs: Stubs, project: str, fence: int) -> None:
    stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S)
    before = stubs.stored()
    run = ref(project)
    assert refused(stubs.leases.Renew, leases_pb2.RenewRequest(run=run, fence=fence)) == "fence"
    release = leases_pb2.ReleaseRequest(run=run, fence=fence, outcome="RUN_STATE_FINISHED")
    assert refused(stubs.leases.Release, release) == "fence"
    assert refused(stubs.runs.DeleteRun, runs_pb2.DeleteRunRequest(run=run, fence=fence)) == "fence"
    broken = leases_pb2.BreakRequest(run=run, fence=fence, reason="why", force=True)
    assert refused(stubs.leases.Break, broken) == "fence"
    purge = runs_pb2.DeleteRunRequest(run=run, fence=fence, purge=True)
    assert refused(stubs.runs.DeleteRun, purge) == "fence"
    if fence:  # 0 is an operator's change
        assert refused(stubs.runs.UpdateRun, runs_pb2.UpdateRunRequest(run=run, fence=fence, notes="n")) == "fence"
    opening = metrics_pb2.OpenWriter(run=run, fence=fence, writer="main", session="s")
    assert refused(stubs.metrics.Append, iter([metrics_pb2.AppendRequest(open=opening)])) == "open.fence"
    assert stubs.stored() == before


@pytest.mark.parametrize("outcome", [0, 1, 7, 8, -1, 2**31 - 1])
def test_outcomes(stubs: Stubs, project: str, outcome: int) -> None:
    fence = stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S).grant.fence
    before = stubs.stored()
    request = leases_pb2.ReleaseRequest(run=ref(project), fence=fence, outcome=outcome)
    assert refused(stubs.leases.Release, request) == "outcome"
    assert stubs.stored() == before


def token(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


TOKENS = ["x", "!!!!", "ä", "AAAA", token(), token("p"), token("p", "x", "r"), token("a b", 1, "r"), token("p", 1, 7)]
TOKENS += [token("p", math.inf, "r"), token("p", math.nan, "r"), token("p", 10**400, "r"), token("p", -1, "r")]
TOKENS += [base64.urlsafe_b64encode(b"[" * 100_000).decode(), "x" * MIB]


@pytest.mark.parametrize("page_token", TOKENS, ids=lambda value: value[:24])
def test_page_tokens(stubs: Stubs, page_token: str) -> None:
    assert refused(stubs.runs.ListRuns, runs_pb2.ListRunsRequest(page_token=page_token)) == "page_token"


#: None of them is the position of a log's entry.
AFTERS = ["x", "1", "1-", "-1", "1-x", "1-1-1", " 1-0", "1-0\n", "+1-0", "²-0", "٣-0", "1e3-0", f"{2**64}-0", "1" * MIB]

#: None of them is the cursor of an event.
CURSORS = ["x", "1-0", "*", "*=", "*=1", "*=-1", "*=1-x", "64=1-0", "-1=1-0", "*=1-0,", "*=1-0 ", "1.0=1-0", "ä=1-0"]
CURSORS += [
    "*=" + "9" * 20 + "-0",
    "*=0-" + "9" * 20,
    "²=1-0",
    "0=²-0",
    "*=1-²",
    "x" * MIB,
    ",".join(["*=1-0"] * 99 + ["?"]),
]

RUN_CALLS: list[tuple[str, str, Any]] = [
    ("project", "ListRuns", runs_pb2.ListRunsRequest(project="a/b")),
    ("project", "ListRuns", runs_pb2.ListRunsRequest(project="x" * MIB)),
    ("states", "ListRuns", runs_pb2.ListRunsRequest(states=[1, 99])),
    ("states", "ListRuns", runs_pb2.ListRunsRequest(states=[0])),
    ("page_size", "ListRuns", runs_pb2.ListRunsRequest(page_size=1001)),
    ("page_size", "ListRuns", runs_pb2.ListRunsRequest(page_size=2**32 - 1)),
    ("tags[0]", "ListRuns", runs_pb2.ListRunsRequest(tags=["x" * 65])),
    ("run.project", "GetRun", runs_pb2.GetRunRequest()),
    ("run.id", "GetRun", runs_pb2.GetRunRequest(run=ref("p", "x" * MIB))),
    ("run.id", "UpdateRun", runs_pb2.UpdateRunRequest(run=ref("p", ""))),
    ("run.project", "DeleteRun", runs_pb2.DeleteRunRequest(run=ref("..", "r"))),
    ("run.project", "UndeleteRun", runs_pb2.UndeleteRunRequest()),
    ("run.id", "UndeleteRun", runs_pb2.UndeleteRunRequest(run=ref("p", "x" * MIB))),
    ("run.project", "Link", runs_pb2.LinkRequest(continues_id="a")),
    ("run.id", "Link", runs_pb2.LinkRequest(run=ref("p", "x" * 65), continues_id="a")),
    ("continues_id", "Link", runs_pb2.LinkRequest(run=ref())),
    ("continues_id", "Link", runs_pb2.LinkRequest(run=ref(), continues_id="x" * MIB)),
    ("project", "Watch", runs_pb2.WatchRequest(project="a/b")),
    ("project", "Watch", runs_pb2.WatchRequest(project="x" * MIB)),
    ("project", "Watch", runs_pb2.WatchRequest(id="r")),
    ("id", "Watch", runs_pb2.WatchRequest(project="p", id="x" * 65)),
]
RUN_CALLS += [("after", "Watch", runs_pb2.WatchRequest(after=cursor)) for cursor in CURSORS]


@pytest.mark.parametrize(("field", "method", "request_"), RUN_CALLS, ids=lambda value: str(value)[:30])
def test_calls_of_runs(stubs: Stubs, field: str, method: str, request_: Any) -> None:
    assert refused(getattr(stubs.runs, method), request_) == field


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": "x" * MIB}),
        ("notes", {"notes": "x" * MIB}),
        ("tags.tags[0]", {"tags": runs_pb2.Tags(tags=["x" * MIB])}),
        ("config['a']", {"config": {"a": "nope"}}),
        ("summary['a']", {"summary": {"a": ""}}),
    ],
)
def test_updates(stubs: Stubs, project: str, field: str, given: dict[str, Any]) -> None:
    stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S)
    before = stubs.stored()
    assert refused(stubs.runs.UpdateRun, runs_pb2.UpdateRunRequest(run=ref(project), **given)) == field
    run, reason = ref(project), "x" * MIB
    for purge in (False, True):
        request = runs_pb2.DeleteRunRequest(run=run, fence=1, reason=reason, purge=purge)
        assert refused(stubs.runs.DeleteRun, request) == "reason"
    assert refused(stubs.runs.UndeleteRun, runs_pb2.UndeleteRunRequest(run=run, reason=reason)) == "reason"
    assert stubs.stored() == before


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1025, "x" * MIB, "a\nb", "\x7f"], ids=lambda value: value[:4])
@pytest.mark.parametrize("force", [False, True])
def test_breaks_say_why(stubs: Stubs, project: str, reason: str, force: bool) -> None:
    fence = stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S).grant.fence
    before = stubs.stored()
    request = leases_pb2.BreakRequest(run=ref(project), fence=fence, force=force, reason=reason)
    assert refused(stubs.leases.Break, request) == "reason"
    assert stubs.stored() == before


@pytest.mark.parametrize(("step", "field"), [(-1, "step"), (5, "step"), (2**53 - 1, "step"), (2**63 - 1, "step")])
def test_links(stubs: Stubs, project: str, step: int, field: str) -> None:
    for run_id in ("r", "old"):
        stubs.leases.Acquire(wish(project, run=ref(project, run_id)), timeout=TIMEOUT_S)
    before = stubs.stored()
    request = runs_pb2.LinkRequest(run=ref(project), continues_id="old", step=step)
    assert refused(stubs.runs.Link, request) == field
    itself = runs_pb2.LinkRequest(run=ref(project), continues_id="r")
    refused(stubs.runs.Link, itself, code=grpc.StatusCode.FAILED_PRECONDITION)
    assert stubs.stored() == before


def test_what_is_not_there_is_not_found(stubs: Stubs, project: str) -> None:
    before, run = stubs.stored(), ref(project)
    missing = grpc.StatusCode.NOT_FOUND
    refused(stubs.leases.Break, leases_pb2.BreakRequest(run=run, fence=1, reason="why"), code=missing)
    refused(stubs.runs.UndeleteRun, runs_pb2.UndeleteRunRequest(run=run), code=missing)
    refused(stubs.runs.DeleteRun, runs_pb2.DeleteRunRequest(run=run, fence=1, purge=True), code=missing)
    refused(stubs.runs.Link, runs_pb2.LinkRequest(run=run, continues_id="old"), code=missing)
    fork = wish(project, fork_from=point("parent"), mode="RESUME_MODE_NEVER")
    refused(stubs.leases.Acquire, fork, code=missing)
    rewind = wish(project, resume_from=point("r"), mode="RESUME_MODE_MUST")
    refused(stubs.leases.Acquire, rewind, code=missing)
    refused(stubs.leases.Acquire, wish(project, member=True), code=grpc.StatusCode.FAILED_PRECONDITION)
    assert stubs.stored() == before


def test_a_search_without_keys_leads_nowhere(stubs: Stubs, project: str) -> None:
    request = wish(project, mode="RESUME_MODE_AUTO", auto_search=True)
    assert stubs.leases.Acquire(request, timeout=TIMEOUT_S).grant.run.id == "r"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("run.id", {"run": ref("p", "")}),
        ("writers", {"writers": ["a b"]}),
        ("min_step", {"min_step": -1}),
        ("max_step", {"max_step": 2**63 - 1}),
        ("key_patterns", {"key_patterns": ["*"] * 65}),
        ("key_patterns[1]", {"key_patterns": ["*", ""]}),
        ("key_patterns[0]", {"key_patterns": ["x" * 257]}),
        ("superseded", {"after": "1-0", "superseded": True}),
        ("max_points", {"after": "1-0", "max_points": 5}),
        *(("after", {"after": after}) for after in AFTERS),
    ],
)
def test_histories(stubs: Stubs, field: str, given: dict[str, Any]) -> None:
    request = metrics_pb2.HistoryRequest(**{"run": ref()} | given)
    assert refused(stubs.metrics.History, request) == field


@pytest.mark.parametrize("page_token", TOKENS, ids=lambda value: value[:24])
def test_page_tokens_of_histories(stubs: Stubs, project: str, page_token: str) -> None:
    stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S)
    request = metrics_pb2.HistoryRequest(run=ref(project), page_token=page_token)
    assert refused(stubs.metrics.History, request) == "page_token"


# The Append stream


@pytest.fixture
def fence(stubs: Stubs, project: str) -> int:
    return int(stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S).grant.fence)


def opening(project: str, fence: int, **more: Any) -> metrics_pb2.AppendRequest:
    fields: dict[str, Any] = {"run": ref(project), "fence": fence, "writer": "main", "session": "s1"}
    return metrics_pb2.AppendRequest(open=metrics_pb2.OpenWriter(**fields | more))


def entry(seq: int, **payload: Any) -> metrics_pb2.AppendRequest:
    return metrics_pb2.AppendRequest(entry=metrics_pb2.Entry(seq=seq, **payload))


def points(steps: Iterable[int] = (0, 1), times: Iterable[float] | None = None, **series: Any) -> metrics_pb2.Points:
    steps = list(steps)
    values = {"key": "loss", "values": [0.5] * len(steps)} | series
    return metrics_pb2.Points(steps=steps, times=times or [0.0] * len(steps), series=[metrics_pb2.Series(**values)])


OPENINGS: list[tuple[str, dict[str, Any]]] = [
    ("open.run.project", {"run": None}),
    ("open.run.id", {"run": ref("p", "x" * MIB)}),
    ("open.writer", {"writer": ""}),
    ("open.writer", {"writer": "a b"}),
    ("open.writer", {"writer": "x" * 65}),
    ("open.session", {"session": ""}),
    ("open.session", {"session": "x" * MIB}),
    ("open.session", {"session": "a b"}),
    ("open.rank_ticket", {"rank_ticket": "t"}),
    ("open.attempt", {"attempt": 1}),
    ("open.durability", {"durability": "DURABILITY_REPLICATED"}),
]


@pytest.mark.parametrize(("field", "given"), OPENINGS, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_openings(stubs: Stubs, project: str, fence: int, field: str, given: dict[str, Any]) -> None:
    before = stubs.log(project)
    sent = iter([opening(project, fence, **given), entry(1, points=points())])
    assert refused(stubs.metrics.Append, sent) == field
    assert stubs.log(project) == before


def test_a_stream_is_opened_once_and_first(stubs: Stubs, project: str, fence: int) -> None:
    before = stubs.log(project)
    assert refused(stubs.metrics.Append, iter([entry(1, points=points())])) == "open"
    assert refused(stubs.metrics.Append, iter([metrics_pb2.AppendRequest()])) == "open"
    assert stubs.append() == []  # nothing sent is nothing refused
    twice = [opening(project, fence), opening(project, fence), entry(1, points=points())]
    assert refused(stubs.metrics.Append, iter(twice)) == "entry"
    assert refused(stubs.metrics.Append, iter([opening(project, fence), metrics_pb2.AppendRequest()])) == "entry"
    assert stubs.log(project) == before


#: Row, and what its time is among good ones.
BAD_TIMES = [(0, math.nan), (2, math.nan), (1, math.inf), (2, -math.inf), (0, -1e-9), (1, -1.0), (0, 253402300800.0)]
BAD_TIMES += [(2, 1e300), (1, 1.7e308)]


def wrong_at(row: int, time_s: float) -> list[float]:
    times = [0.0, 1.7e9, 253402300799.9]
    times[row] = time_s
    return times


BAD: list[tuple[str, dict[str, Any]]] = [
    ("entry.payload", {}),
    ("entry.points.steps", {"points": metrics_pb2.Points()}),
    ("entry.points.steps", {"points": points([0, -1])}),
    ("entry.points.steps", {"points": points([2**63 - 1])}),
    ("entry.points.times", {"points": points([0, 1], [0.0])}),
    *((f"entry.points.times[{row}]", {"points": points(range(3), wrong_at(row, time))}) for row, time in BAD_TIMES),
    ("entry.points.series", {"points": metrics_pb2.Points(steps=[0], times=[0.0])}),
    ("entry.points.series[0].values", {"points": points(values=[1.0])}),
    ("entry.points.series[0].values", {"points": points(values=[1.0] * 3)}),
    ("entry.points.series[0].rows", {"points": points(rows=[1, 0])}),
    ("entry.points.series[0].rows", {"points": points(rows=[0, 2])}),
    ("entry.points.series[0].values", {"points": points(rows=[0])}),
    ("entry.points.series[0].key", {"points": points(key="")}),
    ("entry.points.series[0].key", {"points": points(key="x" * 300)}),
    ("entry.points.series[0].key", {"points": points(key="x" * MIB)}),
    ("entry.commit.step", {"commit": metrics_pb2.Commit(step=-1, uri="u")}),
    ("entry.commit.step", {"commit": metrics_pb2.Commit(step=2**53 - 1, uri="u")}),
    ("entry.commit.uri", {"commit": metrics_pb2.Commit(step=1, uri="x" * MIB)}),
    ("entry.commit.metadata['a']", {"commit": metrics_pb2.Commit(step=1, uri="u", metadata={"a": "{"})}),
    ("entry.rewind.step", {"rewind": metrics_pb2.Rewind(step=-1)}),
    ("entry.rewind.step", {"rewind": metrics_pb2.Rewind(step=2**62)}),
    ("entry.lost.entries", {"lost": metrics_pb2.Lost()}),
    ("entry.lost.entries", {"lost": metrics_pb2.Lost(entries=2**64 - 1)}),
    ("entry.lost.points", {"lost": metrics_pb2.Lost(entries=1, points=2**53)}),
    ("entry.end", {"end": metrics_pb2.End(outcome=2)}),
]
MANY = [metrics_pb2.Series(key=f"k{number}", values=[1.0]) for number in range(100_000)]
BAD.append(("entry.points.series", {"points": metrics_pb2.Points(steps=[0], times=[0.0], series=MANY)}))
#: One row, or one point, more than a batch may have.
BAD.append(("entry.points.steps", {"points": points(range(100_001))}))
WIDE = [metrics_pb2.Series(key=f"k{number}", values=[1.0] * 50_001) for number in range(2)]
BAD.append(
    ("entry.points.series", {"points": metrics_pb2.Points(steps=range(50_001), times=[0.0] * 50_001, series=WIDE)})
)


@pytest.mark.parametrize(("field", "given"), BAD, ids=lambda value: str(value)[:40].replace("\n", " "))
def test_a_bad_entry_uses_up_its_seq_and_the_stream_goes_on(
    stubs: Stubs, project: str, fence: int, field: str, given: dict[str, Any]
) -> None:
    before = stubs.log(project)
    opened, rejected = stubs.append(opening(project, fence), entry(1, **given))
    assert opened.opened.seq == 0
    assert (rejected.rejected.seq, rejected.rejected.expected_seq) == (1, 2)
    assert rejected.rejected.field == field
    assert 0 < len(rejected.rejected.description) < 400
    assert stubs.log(project) == before
    answers = stubs.append(opening(project, fence), entry(2, points=points()))
    assert (answers[0].opened.seq, answers[0].opened.written, answers[1].ack.seq) == (1, False, 2)


@pytest.mark.parametrize("seq", [0, 2, 7, 2**53, 2**63, 2**64 - 1])
@pytest.mark.parametrize("payload", [{"points": points()}, {}], ids=["good", "bad"])
def test_a_seq_that_is_not_the_next_uses_up_nothing(
    stubs: Stubs, project: str, fence: int, seq: int, payload: dict[str, Any]
) -> None:
    before = stubs.log(project)
    _, rejected = stubs.append(opening(project, fence), entry(seq, **payload))
    assert (rejected.rejected.field, rejected.rejected.expected_seq) == ("entry.seq", 1)
    assert stubs.log(project) == before
    assert stubs.append(opening(project, fence), entry(1, points=points()))[1].ack.seq == 1


@pytest.mark.parametrize("segment", [1, 2**32 - 1])
def test_a_segment_that_is_not_the_writers_ends_the_stream(
    stubs: Stubs, project: str, fence: int, segment: int
) -> None:
    before = stubs.log(project)
    sent = iter([opening(project, fence), entry(1, segment=segment, points=points())])
    assert refused(stubs.metrics.Append, sent) == "entry.segment"
    assert stubs.log(project) == before


def test_every_float_is_fine(stubs: Stubs, project: str, fence: int) -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    answers = stubs.append(opening(project, fence), entry(1, points=points(range(5), values=values)))
    assert answers[1].ack.seq == 1
    ((key, steps, stored),) = stubs.log(project)[-1]
    assert (key, steps, [value.hex() for value in stored]) == ("loss", [0, 1, 2, 3, 4], [v.hex() for v in values])


# Bytes that are no message


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


# Whatever else: no call is an internal error


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
