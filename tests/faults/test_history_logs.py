"""The checker finds what is wrong with logs, attempts and limits, and nothing in what is right: histories by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import logs
from tests.faults.history.check import check
from tests.faults.history.final import AuditEvent, FinalRun, LoggedPoint
from tests.faults.history.logs import Account
from tests.faults.history.recorder import Recorder
from tests.faults.history.records import NEVER, Entry, History, Record, Stream, load
from tests.faults.history.register import Rules
from tests.faults.test_history_leases import RUN, call, grant, renew

STRICT, LOSSY = Rules(1.0), Rules(1.0, lossy=True)


def stream(fence: int, *entries: Entry) -> Stream:
    return Stream("a", RUN, fence, "main", "s", {entry.seq: entry for entry in entries})


def test_fencing() -> None:
    late = stream(10, Entry(1, "points", 5, False, sent=4, acked=5))
    assert not [*logs.fencing(History(streams=[late]), {}, STRICT)]
    assert [*logs.fencing(History(streams=[late], calls=[grant(20, 2, 3)]), {}, STRICT)]
    early = stream(10, Entry(1, "points", 5, False, sent=2.5, acked=5))
    assert not [*logs.fencing(History(streams=[early], calls=[grant(20, 2, 3)]), {}, STRICT)]
    refused = stream(10, Entry(1, "points", 5, False, sent=4))
    assert not [*logs.fencing(History(streams=[refused], calls=[grant(20, 2, 3)]), {}, STRICT)]
    broken = call("break", 2, 3, fence=10, fence_=15, force=True)
    assert [*logs.fencing(History(streams=[late], calls=[broken]), {}, STRICT)]


def test_fencing_of_a_lease_that_came_back_behind_a_lost_grant() -> None:
    entry = Entry(1, "points", 5, False, sent=24, acked=25)
    lost, back = grant(20, 2, 3), renew(10, 22, 23, fence_=25)
    assert [*logs.fencing(History(streams=[stream(10, entry)], calls=[lost]), {}, STRICT)]
    assert not [*logs.fencing(History(streams=[stream(10, entry)], calls=[lost, back]), {}, STRICT)]
    assert not [*logs.fencing(History(streams=[stream(25, entry)], calls=[lost, back]), {}, STRICT)]
    assert [*logs.fencing(History(streams=[stream(20, entry)], calls=[lost, back]), {}, STRICT)]
    early = replace(entry, sent=4, acked=5)
    assert [*logs.fencing(History(streams=[stream(10, early)], calls=[lost, back]), {}, STRICT)]
    assert [*logs.fencing(History(streams=[stream(10, entry)], calls=[lost, back, grant(30, 23, 23.5)]), {}, STRICT)]


def test_points_and_checkpoints_of_a_lease_that_came_back() -> None:
    """Its process began as fence 10; the store knows its attempt by another one, where it had forgotten the first."""
    records = life(2, told(2), {"e": "durable", "steps": [1]}, END)
    history = History(lives={"a": records}, calls=[grant(10, 0, 1), renew(10, 20, 21, fence_=25)])
    found = [replace(point, fence=25) for point in points(0, 1)]
    state = FinalRun(attempts={"1.fence": "25", "fence.25": "1"}, points=found, commits=[(25, 1)])
    assert not [*logs.points(history, {RUN: state}, STRICT, Account())]
    assert not [*logs.checkpoints(history, {RUN: state}, STRICT)]
    stranger = replace(history, calls=history.calls[:1])
    assert [*logs.points(stranger, {RUN: state}, STRICT, Account())]
    assert [*logs.checkpoints(stranger, {RUN: state}, STRICT)]


def final(*fences: int, events: Sequence[AuditEvent] | None = None, **more: Any) -> FinalRun:
    attempts = {f"{number}.fence": str(fence) for number, fence in enumerate(fences, 1)}
    attempts |= {f"nonce.n{fence}": str(number) for number, fence in enumerate(fences, 1)}
    told = [AuditEvent(fence, "granted", fence, number, {}) for number, fence in enumerate(fences, 1)]
    return FinalRun({"fence": str(fences[-1])}, attempts, events=list(told if events is None else events), **more)


def test_attempts() -> None:
    calls = [grant(10, 0, 1), grant(20, 2, 3)]

    def found(run: FinalRun, rules: Rules = STRICT) -> list[str]:
        return [one.message for one in logs.attempts(History(calls=calls), {RUN: run}, rules)]

    assert found(final(10, 20)) == []
    assert any("is no attempt" in line for line in found(final(10, events=[AuditEvent(1, "granted", 10, 1, {})])))
    assert found(final(10), LOSSY) == []
    assert any("do not rise" in line for line in found(final(20, 10)))
    assert any("nobody asked" in line for line in found(final(10, 20, 30)))
    assert any("audit log" in line for line in found(final(10, 20, events=[])))
    gap = final(10, 20)
    gap.attempts["4.fence"] = "40"
    assert any("[1, 2, 4]" in line for line in found(gap))
    back = [AuditEvent(f, kind, f, 1, {}) for f, kind in ((5, "granted"), (5, "given-back"), (10, "granted"))]
    assert found(final(10, 20, events=[*back, AuditEvent(20, "granted", 20, 2, {})])) == []


def life(logged: int, *more: Record, journaled: bool = False) -> list[Record]:
    rows = [{"e": "log", "step": step, "row": {"x": float(step)}} for step in range(logged)]
    facts = {"run": RUN, "fence": 10, "writer": "main", "journaled": journaled}
    return [{"t": 50.0, **record} for record in [{"e": "life", **facts}, *rows, *more]]


def points(*values: int) -> list[LoggedPoint]:
    return [LoggedPoint(10, "main", "x", value, float(value), 1) for value in values]


def told(acknowledged: int, **more: Any) -> Record:
    return {"e": "told", "acknowledged": acknowledged, "lost": 0, "rejected": 0, "dropped": 0, **more}


END: Record = {"e": "end", "delivered": True}


@pytest.mark.parametrize(
    ("there", "records", "rules", "right"),
    [
        ([0, 1, 2], life(3, told(3), END), STRICT, True),
        ([0, 1], life(3, told(3), END), STRICT, False),
        ([0, 1], life(3, told(2)), STRICT, True),
        ([0, 1, 2], life(3, told(2)), STRICT, True),
        ([0, 2], life(3, told(2, lost=1), END), LOSSY, True),
        ([2], life(3, told(2, lost=1)), STRICT, False),
        ([0, 1, 2], life(3, told(2, lost=1), END), STRICT, True),
        ([0, 2], life(3, told(2, lost=1)), STRICT, True),
        ([0, 2], life(3, told(2, lost=1), END), STRICT, False),
        ([0, 1, 1, 2], life(3, told(3)), STRICT, False),
        ([0, 2, 1], life(3, told(3)), STRICT, False),
        ([0, 1, 7], life(3, told(3)), STRICT, False),
        ([0, 1], life(4, told(2), journaled=True), STRICT, False),
        ([0, 1], life(3, told(2), journaled=True), STRICT, True),
        ([0, 1], life(3, told(3)), LOSSY, True),
        ([0, 1], life(3, told(3), END), LOSSY, False),
    ],
)
def test_points(there: list[int], records: list[Record], rules: Rules, right: bool) -> None:
    account = Account()
    history = History(lives={"a": records})
    found = [*logs.points(history, {RUN: FinalRun(points=points(*there))}, rules, account)]
    assert (found == []) is right, found
    assert account.logged >= 3


@pytest.mark.parametrize(("loss", "right"), [(30.0, False), (45.0, True), (60.0, True)])
def test_points_lost_by_a_store_that_may(loss: float, right: bool) -> None:
    """Whoever lives on behind the loss has kept what was acknowledged just before, and sends it again."""
    history = History(lives={"a": life(3, told(3), END)}, runner=[{"e": "loss", "t": loss}])
    account = Account()
    found = [*logs.points(history, {RUN: FinalRun(points=points(0, 1))}, LOSSY, account)]
    assert (found == []) is right
    assert (account.undeclared, account.lost) == ((1, 0) if right else (0, 1))


def test_points_of_nobody() -> None:
    assert [*logs.points(History(), {RUN: FinalRun(points=points(0))}, STRICT, Account())]


def test_checkpoints() -> None:
    commit, durable = {"e": "commit", "step": 1}, {"e": "durable", "steps": [1]}
    history = History(lives={"a": life(2, commit, told(2), durable, END)})
    kept = FinalRun(points=points(0, 1), commits=[(10, 1)])
    assert not [*logs.checkpoints(history, {RUN: kept}, STRICT)]
    assert [*logs.checkpoints(history, {RUN: FinalRun()}, STRICT)]


def test_limits() -> None:
    limit = {"e": "limit", "run": RUN, "began": 0.0, "ended": 100.0, "points": 10, "burst_s": 1.0}

    def found(*times: float, barrier: bool = False) -> list[logs.Violation]:
        entries = [Entry(seq, "points", 10, barrier, t - 0.1, t) for seq, t in enumerate(times, 1)]
        return [*logs.admission(History(streams=[stream(10, *entries)], runner=[limit]), STRICT)]

    assert not found(1, 2, 3, 4, 5)
    assert found(1, 1.1, 1.2, 1.3)
    assert found(50, 51, 51.1, 51.2, 51.3)
    assert not found(1, 1.1, 1.2, 1.3, barrier=True)
    assert not found(101, 101.1, 101.2, 101.3)


def test_records_survive_a_torn_line(tmp_path: Path) -> None:
    """A process that was killed in the middle of a line, with a call in flight and a belief that nobody ended."""
    recorder = Recorder(tmp_path / "a.jsonl")
    recorder.write("belief", 1.0, run=RUN, fence=10, until=6.0)
    recorder.write("belief", 2.0, run=RUN, fence=10, until=7.0)
    recorder.write("call", 3.0, i=1, m="renew", run=RUN, fence=10)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"t": 3.5, "e": "answ')
    Recorder(tmp_path / "runner.jsonl").write("killed", 4.0, process="a")
    history = load(tmp_path)
    assert [(one.began, one.ended) for one in history.beliefs] == [(1.0, 2.0), (2.0, 4.0)]
    (renewal,) = history.calls
    assert (renewal.result, renewal.ended) == ("unknown", NEVER)


def test_a_whole_history() -> None:
    right = History(calls=[grant(10, 0, 1)], lives={"a": life(3, told(3), END)})
    state = {RUN: replace(final(10), points=points(0, 1, 2))}
    assert check(right, state, STRICT)[0] == []
    wrong = replace(right, calls=[*right.calls, grant(5, 2, 3)])
    found, _ = check(wrong, state, STRICT)
    assert {"I2", "I5", "I6"} <= {one.invariant for one in found}
    assert all("p/r" in str(one) for one in found)
