"""Malformed calls of leases over a real socket: refused by name, and nothing is stored."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from runlease.v1 import leases_pb2, metrics_pb2, runs_pb2

from tests.support.rawcalls import MIB, TIMEOUT_S, Stubs, point, ref, refused, wish

NAMES = ["", "a/b", ".a", "a b", "a\n", "ä", "x" * MIB]

ACQUIRE: list[tuple[str, dict[str, Any]]] = [
    *(("run.project", {"run": ref(name)}) for name in NAMES),
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


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1025, "x" * MIB, "a\nb", "\x7f"], ids=lambda value: value[:4])
@pytest.mark.parametrize("force", [False, True])
def test_breaks_say_why(stubs: Stubs, project: str, reason: str, force: bool) -> None:
    fence = stubs.leases.Acquire(wish(project), timeout=TIMEOUT_S).grant.fence
    before = stubs.stored()
    request = leases_pb2.BreakRequest(run=ref(project), fence=fence, force=force, reason=reason)
    assert refused(stubs.leases.Break, request) == "reason"
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
