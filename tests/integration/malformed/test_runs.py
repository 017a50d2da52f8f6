"""Malformed calls of runs and histories over a real socket: refused by name, and nothing is stored."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import grpc
import pytest
from runlease.v1 import metrics_pb2, runs_pb2

from tests.support.rawcalls import MIB, TIMEOUT_S, Stubs, ref, refused, wish


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
