"""The audit log: every change of a run is an event, in order, once; what changes nothing is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from runlease_coordinator.domain.errors import BadBranch, DomainError, LeaseHeld, Stale
from runlease_coordinator.domain.leases import Acquisition, Fork, ProofOfDeath, ResumeMode
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.scripts import lua, scripts

from tests.support.stores import HOLDER, TTL_US, LiveStore, points_entry, writer_of

#: Scripts that write and need no event: logs are their own record, to archive them changes nothing that anybody reads,
#: and opening a store concerns no run.
_SILENT = {"append", "open_writer", "bootstrap", "cut", "commit_part", "quarantine"}
_WRITES = re.compile(r"'(HSET|HDEL|HINCRBY|DEL|ZADD|ZREM|XADD)'")


class Audit:
    """What one project's log says."""

    def __init__(self, live: LiveStore, project: str) -> None:
        self.live, self.project = live, project
        self.key = run_keys(project, "r").partition.events

    def all(self) -> list[tuple[str, str, int, dict[str, Any]]]:
        """Return (kind, run, attempt, details) of all events."""
        entries = [fields for _, fields in self.live.raw.xrange(self.key) if fields["p"] == self.project]
        return [(e["k"], e["r"], int(e["a"]), json.loads(e["d"])) for e in entries]

    def after(self, act: Callable[[], object]) -> list[str]:
        """Return the kinds that something adds; its refusal is no error here."""
        before = len(self.all())
        with suppress(DomainError):
            act()
        return [kind for kind, *_ in self.all()[before:]]


@pytest.fixture
def audit(live: LiveStore, project: str) -> Audit:
    return Audit(live, project)


def test_a_run_s_life(live: LiveStore, audit: Audit, project: str) -> None:
    name, raw = (project, "r", "r"), live.raw
    fences: list[int] = []

    def acquire(**how: Any) -> None:
        fences.append(live.acquire(project, **how).fence)

    def now(call: Any) -> Callable[[], object]:
        return lambda: live.run(call())

    def break_lease(force: bool) -> Callable[[], object]:
        return now(lambda: live.leases.break_lease(*name[::2], fences[-1], force=force, reason="why", by="me"))

    def expire() -> None:
        raw.hset(run_keys(project, "r").run, mapping={"expiry": 1, "avail": 2})
        raw.zadd(run_keys(project, "r").partition.live, {f"{project}/r": 1})

    def expired(then: Callable[[], object]) -> Callable[[], object]:
        return lambda: (expire(), then())

    def update() -> object:
        nothing = {"notes": None, "tags": None, "config": {}, "summary": {}}
        return live.run(live.runs.update_run(project, "r", 0, name="n", **nothing))

    def proof() -> ProofOfDeath:
        return ProofOfDeath(fences[-1], HOLDER.boot_id, HOLDER.pid_namespace, HOLDER.pid, HOLDER.process_started)

    def log() -> None:
        writer = writer_of(project, fences[-1])
        live.run(live.metrics.open_writer(writer))
        live.run(live.metrics.append(writer, points_entry(1, [(0, 1.0), (1, 1.0)])))

    def purge() -> object:
        fence = live.get(project).run.fence
        return live.run(live.runs.purge_run(*name, fence, "why"))

    def release(outcome: str = "finished") -> Callable[[], object]:
        return lambda: live.release(project, fences[-1], outcome)

    steps: list[tuple[Callable[[], object], list[str]]] = [
        (acquire, ["created"]),
        (lambda: live.acquire(project, mode="never"), []),  # refused
        (acquire, []),  # refused: it is held
        (now(lambda: live.leases.renew(project, "r", fences[-1])), []),
        (log, []),
        (update, ["updated"]),
        (release(), ["released"]),
        (release(), []),  # a repetition
        (acquire, ["granted"]),
        (expired(now(lambda: live.leases.renew(project, "r", fences[-1]))), ["reinstated"]),
        (expired(now(live.sweeper.sweep)), ["expired"]),
        (now(live.sweeper.sweep), []),
        (now(lambda: live.leases.renew(project, "r", fences[-1])), ["reinstated"]),
        (expired(acquire), ["expired", "granted"]),  # not swept: the grant ends it
        (break_lease(force=False), ["revoked"]),
        (break_lease(force=False), []),  # a repetition
        (break_lease(force=True), ["broken"]),
        (break_lease(force=True), []),  # a repetition
        (break_lease(force=False), []),
        (acquire, ["granted"]),
        (lambda: fences.append(live.acquire(project, proof=proof()).fence), ["proved-dead", "granted"]),
        (now(lambda: live.leases.give_back(project, "r", fences[-1])), ["given-back"]),
        (now(lambda: live.leases.give_back(project, "r", fences[-1])), []),  # a repetition
        (acquire, ["granted"]),
        (lambda: live.run(live.runs.delete_run(*name, fences[-1], "why")), []),  # refused: it is held
        (purge, []),  # refused: it is not deleted
        (expired(lambda: live.run(live.runs.delete_run(*name, fences[-1], "why"))), ["expired", "deleted"]),
        (lambda: live.run(live.runs.delete_run(*name, fences[-1], "why")), []),  # a repetition
        (acquire, []),  # refused: it is deleted
        (now(lambda: live.runs.undelete_run(*name, "why")), ["undeleted"]),
        (now(lambda: live.runs.undelete_run(*name, "why")), []),  # a repetition
        (lambda: live.run(live.runs.delete_run(*name, fences[-1], "why")), ["deleted"]),
        (purge, ["purged"]),
        (purge, []),  # there is nothing left
        (acquire, ["created"]),
    ]
    for number, (act, expected) in enumerate(steps):
        assert audit.after(act) == expected, f"step {number}"
    assert fences == sorted(set(fences))


def test_branches_name_what_they_continue(live: LiveStore, audit: Audit, project: str) -> None:
    grant = live.acquire(project, "old")
    writer = writer_of(project, grant.fence, run_id="old")
    live.run(live.metrics.open_writer(writer))
    live.run(live.metrics.append(writer, points_entry(1, [(0, 1.0), (5, 1.0)])))
    wish = Acquisition(project, "new", "new", ResumeMode.NEVER, "n", TTL_US, HOLDER, fork=Fork("old", 3))
    live.run(live.leases.acquire(wish))
    live.run(live.leases.acquire(wish))  # a repetition
    live.acquire(project, "late")
    for _ in range(2):
        live.run(live.runs.link(project, "late", "late", "old", 4))
    with pytest.raises(BadBranch):
        live.run(live.runs.link(project, "late", "late", "new", 1))
    who = f"{HOLDER.host}:{HOLDER.pid}"
    assert audit.all() == [
        ("created", "old", 1, {"holder": who}),
        ("created", "new", 1, {"holder": who, "continues": "old", "step": "3"}),
        ("created", "late", 1, {"holder": who}),
        ("linked", "late", 1, {"continues": "old", "step": "4"}),
    ]


def test_reasons_and_provers_are_recorded(live: LiveStore, audit: Audit, project: str) -> None:
    first = live.acquire(project).fence
    live.run(live.leases.break_lease(project, "r", first, force=True, reason="node\tis gone", by="ada"))
    second = live.acquire(project).fence
    live.release(project, second, "preempted")
    live.run(live.runs.delete_run(project, "r", "r", second, 'wrong "data"'))
    live.run(live.runs.undelete_run(project, "r", "r", "right ö"))
    told = {kind: details for kind, _, _, details in audit.all()}
    assert told["broken"] == {"reason": "node\tis gone", "by": "ada"}
    assert told["released"] == {"outcome": "preempted"}
    assert told["deleted"] == {"reason": 'wrong "data"'}
    assert told["undeleted"] == {"reason": "right ö"}


def test_what_is_refused_by_name_is_no_event(live: LiveStore, audit: Audit, project: str) -> None:
    old = live.acquire(project).fence
    live.release(project, old)
    new = live.acquire(project).fence
    seen = audit.all()
    prover = ProofOfDeath(new, "another boot", HOLDER.pid_namespace, HOLDER.pid, HOLDER.process_started)
    wish = Acquisition(project, "r", "r", ResumeMode.ALLOW, "n9", TTL_US, replace(HOLDER, boot_id="other"))
    with pytest.raises(LeaseHeld):
        live.run(live.leases.acquire(replace(wish, proof=prover)))
    for call in (
        live.leases.renew(project, "r", old),
        live.leases.break_lease(project, "r", old, force=True, reason="x", by="y"),
        live.runs.delete_run(project, "r", "r", old, ""),
    ):
        with pytest.raises(Stale):
            live.run(call)
    assert audit.all() == seen


def test_scripts_that_change_something_say_so() -> None:
    for name in scripts():
        body = lua(name)
        if _WRITES.search(body) and name not in _SILENT:
            assert re.search(r"^[^-]*\bevent\(", body, re.MULTILINE), f"{name}.lua writes and tells nobody"
