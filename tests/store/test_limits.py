"""Rate limits: the bound that they keep, what is exempt, who sets what for whom, and clocks that go back."""

from __future__ import annotations

import itertools
import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runlease.v1 import metrics_pb2 as pb
from runlease_coordinator.domain.errors import InvalidField, RunDeleted, RunNotFound
from runlease_coordinator.domain.errors import Throttled as TooManyCalls
from runlease_coordinator.domain.leases import Acquisition, Patience, ResumeMode
from runlease_coordinator.domain.limits import DEFAULTS, LARGEST_POINTS, Limits, LimitsChange
from runlease_coordinator.domain.metrics import Entry, EntryKind, Writer
from runlease_coordinator.rpc.limits import change_of
from runlease_coordinator.store import leases as lease_module
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.metrics import Appended, Gap, MetricStore, Throttled

from tests.support.stores import HOLDER, LiveStore, commit_entry, rewind_entry, writer_of

_PROJECTS = (f"limits-{number}" for number in itertools.count())
SECOND_US = 1_000_000


class Log:
    """One writer that numbers its entries; `put` offers the next one."""

    def __init__(self, live: LiveStore, writer: Writer, metrics: MetricStore | None = None) -> None:
        self.live, self.writer, self.seq = live, writer, 0
        self.metrics = metrics or live.metrics
        live.run(self.metrics.open_writer(writer))

    def offer(self, entry: Entry) -> Appended | Gap | Throttled:
        outcome = self.live.run(self.metrics.append(self.writer, entry))
        if isinstance(outcome, Appended):
            self.seq = outcome.seq
        return outcome

    def put(self, points: int, size: int = 10, *, barrier: bool = False) -> Appended | Gap | Throttled:
        return self.offer(Entry(self.seq + 1, 0, EntryKind.POINTS, b"x" * size, points, 0, barrier))


def log_of(live: LiveStore, project: str, run_id: str = "r", **more: Any) -> Log:
    return Log(live, writer_of(project, live.acquire(project, run_id).fence, run_id=run_id), **more)


def change(live: LiveStore, project: str, run_id: str = "", **limits: Any) -> Limits:
    return live.run(live.limits.set(project, run_id, run_id, LimitsChange(**limits)))


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 400)), min_size=1, max_size=40),
    limited=st.sampled_from(("run_points", "run_bytes", "project_points", "project_bytes")),
    rate=st.integers(500, 100_000),
    burst_ms=st.integers(0, 50),
)
def test_what_comes_in_is_bounded(
    live: LiveStore, batches: list[tuple[int, int]], limited: str, rate: int, burst_ms: int
) -> None:
    # Given two coordinators; of one run each has a writer, of a project a run.
    project = next(_PROJECTS)
    change(live, project, **{"run_points": 0, "run_bytes": 0, "project_points": 0, "project_bytes": 0, limited: rate})
    change(live, project, burst_s=burst_ms / 1000)
    other = MetricStore(live.store)
    first = log_of(live, project)
    if limited.startswith("run"):
        second = Log(live, writer_of(project, first.writer.fence, name="rank1"), other)
    else:
        second = log_of(live, project, "s", metrics=other)
    began_us, taken, largest = live.now_us(), 0, max(size for _, size in batches)
    for which, size in batches:
        log = (first, second)[which]
        outcome = log.put(size, 1) if limited.endswith("points") else log.put(1, size)
        if isinstance(outcome, Appended):
            taken += size
        else:
            assert isinstance(outcome, Throttled)
            assert (outcome.limited.replace("/", "_"), outcome.limit) == (limited, rate)
            assert 0 < outcome.retry_after_us <= outcome.reset_us
    elapsed_s = (live.now_us() - began_us) / SECOND_US
    assert taken <= rate * (burst_ms / 1000 + elapsed_s) + largest


def test_what_is_refused_is_taken_after_the_time_told(live: LiveStore, project: str) -> None:
    change(live, project, run_points=10_000, burst_s=0.01)
    log = log_of(live, project)
    assert log.put(600) == Appended(1)  # more than the burst: it gets in, and leads into debt
    before = live.dump(project)
    outcome = log.put(1)
    assert isinstance(outcome, Throttled)
    assert (outcome.limited, outcome.limit, outcome.remaining) == ("run/points", 10_000, 0)
    assert 0 < outcome.retry_after_us <= 50_000
    assert outcome.reset_us - outcome.retry_after_us == 10_000
    assert live.dump(project) == before
    live.wait_past(live.now_us() + outcome.retry_after_us)
    assert log.put(1) == Appended(2)


def test_the_defaults_hold_where_nothing_is_set(live: LiveStore, project: str) -> None:
    log = log_of(live, project)
    taken = 0
    while isinstance(outcome := log.put(100_000), Appended):
        taken += 100_000
    assert isinstance(outcome, Throttled)
    assert (outcome.limited, outcome.limit) == ("run/points", DEFAULTS.run_points)
    assert taken >= DEFAULTS.run_points * DEFAULTS.burst_s
    assert live.run(live.limits.get(project, "", "")) == DEFAULTS


def test_only_points_without_a_commit_behind_them_wait(live: LiveStore, project: str) -> None:
    change(live, project, run_points=1, burst_s=0)
    log = log_of(live, project)
    assert log.put(1000) == Appended(1)
    assert isinstance(log.put(1), Throttled)
    assert log.put(1, barrier=True) == Appended(2)
    assert log.offer(commit_entry(3, 0, log.writer.fence)) == Appended(3)
    assert log.offer(rewind_entry(4, 0, segment=1)) == Appended(4)
    assert log.offer(Entry(5, 0, EntryKind.VOID, b"", 0, 0)) == Appended(5)
    # The barrier was charged, and its debt is carried, though not beyond that of the largest batch.
    outcome = log.offer(Entry(6, 1, EntryKind.POINTS, b"x", 1, 0))
    assert isinstance(outcome, Throttled)
    assert 990 * SECOND_US < outcome.retry_after_us <= 1001 * SECOND_US
    for seq in range(6, 10):
        log.offer(Entry(seq, 1, EntryKind.POINTS, b"x", LARGEST_POINTS, 0, True))
    outcome = log.offer(Entry(10, 1, EntryKind.POINTS, b"x", 1, 0))
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after_us <= LARGEST_POINTS * SECOND_US


@pytest.mark.parametrize("limited", ["run_points", "run_bytes", "project_points", "project_bytes"])
def test_a_clock_that_went_back_throttles_nobody(live: LiveStore, project: str, limited: str) -> None:
    # Given a state from a time that the clock has not come to again, a year ahead.
    change(live, project, burst_s=1, **{limited: 1000})
    log = log_of(live, project)
    assert log.put(10) == Appended(1)
    keys, ahead_us = run_keys(project, "r"), live.now_us() + 365 * 86_400 * SECOND_US
    owner, unit = limited.split("_")
    where = (keys.run, f"tat.{unit}") if owner == "run" else (keys.gcra, unit)
    assert live.raw.hexists(*where)
    live.raw.hset(*where, str(ahead_us))
    assert log.put(10) == Appended(2)
    assert int(live.raw.hget(*where) or 0) < live.now_us() + SECOND_US


def test_nothing_is_kept_of_what_is_unlimited(live: LiveStore, project: str) -> None:
    change(live, project, run_points=0, run_bytes=0, project_points=0, project_bytes=0, burst_s=0)
    log = log_of(live, project)
    assert [log.put(100_000) for _ in range(20)] == [Appended(seq) for seq in range(1, 21)]
    keys = run_keys(project, "r")
    assert live.raw.hkeys(keys.gcra) == ["acquires"]
    assert live.raw.hmget(keys.run, "tat.points", "tat.bytes") == [None, None]


def test_a_run_has_its_own_limits_else_its_projects(live: LiveStore, project: str) -> None:
    own, other = log_of(live, project, "own"), log_of(live, project, "other")
    assert change(live, project, run_points=1, burst_s=0) == Limits(run_points=1, burst_s=0)
    assert change(live, project, "own", run_points=0) == Limits(run_points=0, burst_s=0)
    assert change(live, project, "own", burst_s=2.5) == Limits(run_points=0, burst_s=2.5)
    assert live.run(live.limits.get(project, "other", "other")) == Limits(run_points=1, burst_s=0)
    for log in (own, other):
        assert log.put(10) == Appended(1)
    assert own.put(10) == Appended(2)
    assert isinstance(other.put(10), Throttled)
    # What is raised holds for the next batch, whatever debt the lower rate has left.
    change(live, project, run_points=10_000_000)
    assert other.put(10) == Appended(2)


def test_all_runs_of_a_project_share_its_limits(live: LiveStore, project: str) -> None:
    change(live, project, project_points=1, burst_s=0)
    one, two = log_of(live, project, "one"), log_of(live, project, "two")
    assert one.put(10) == Appended(1)
    outcome = two.put(10)
    assert isinstance(outcome, Throttled)
    assert outcome.limited == "project/points"
    assert next(_PROJECTS) != project
    assert log_of(live, next(_PROJECTS)).put(10) == Appended(1)


def test_a_change_is_an_event_and_a_look_is_none(live: LiveStore, project: str) -> None:
    fence = live.acquire(project).fence
    events = run_keys(project, "r").partition.events
    before = live.raw.xlen(events)
    live.run(live.limits.get(project, "r", "r"))
    assert live.raw.xlen(events) == before
    change(live, project, run_bytes=5, burst_s=0.5)
    change(live, project, "r", run_points=7)
    (_, of_project), (_, of_run) = live.raw.xrange(events)[-2:]
    assert [of_project[name] for name in "prkfa"] == [project, "", "limits", "0", "0"]
    assert json.loads(of_project["d"]) == {"run_bytes": "5", "burst_us": "500000"}
    assert [of_run[name] for name in "prkfa"] == [project, "r", "limits", str(fence), "1"]
    assert json.loads(of_run["d"]) == {"run_points": "7"}


def test_limits_of_a_run_go_with_it(live: LiveStore, project: str) -> None:
    with pytest.raises(RunNotFound):
        change(live, project, "r", run_points=7)
    fence = live.acquire(project).fence
    change(live, project, "r", run_points=7, run_bytes=7, burst_s=7)
    live.release(project, fence)
    live.run(live.runs.delete_run(project, "r", "r", fence, ""))
    with pytest.raises(RunDeleted):
        live.run(live.limits.get(project, "r", "r"))
    live.run(live.runs.purge_run(project, "r", "r", fence, ""))
    assert not live.raw.exists(run_keys(project, "r").limits)
    live.acquire(project)
    assert live.run(live.limits.get(project, "r", "r")) == DEFAULTS


# Acquires


def test_acquires_of_a_project_are_bounded_and_told_when_to_come_again(live: LiveStore, project: str) -> None:
    change(live, project, acquires=1)
    with mock.patch.object(lease_module, "ACQUIRES_BURST_S", 30.0):
        live.raw.hset(run_keys(project, "r").gcra, "acquires", str(live.now_us() + 29 * SECOND_US))
        granted, refusal = 0, None
        while refusal is None:
            try:
                fence = live.acquire(project, f"r{granted}").fence
                granted += 1
            except TooManyCalls as error:
                refusal = error
        assert 2 <= granted <= 4  # what is left of the burst, the one that ends it, and what a slow machine's time paid
        assert 0 < refusal.retry_after_us <= 2 * SECOND_US
        # A refused call takes nothing; renewals and releases have no limit; other projects have their own.
        live.raw.hset(run_keys(project, "r").gcra, "acquires", str(live.now_us() + 31 * SECOND_US))
        used, before = live.raw.hgetall(run_keys(project, "r").gcra), live.dump(project)
        for _ in range(3):
            with pytest.raises(TooManyCalls):
                live.acquire(project)
        assert (live.raw.hgetall(run_keys(project, "r").gcra), live.dump(project)) == (used, before)
        live.run(live.leases.renew(project, f"r{granted - 1}", fence))
        live.release(project, fence, run_id=f"r{granted - 1}")
        assert live.acquire(next(_PROJECTS)).attempt == 1
        change(live, project, acquires=0)
        assert live.acquire(project).attempt == 1


def test_looks_of_a_call_that_waits_count_once(live: LiveStore, project: str) -> None:
    fence = live.acquire(project).fence
    change(live, project, acquires=1)
    keys = run_keys(project, "r")
    live.raw.hdel(keys.gcra, "acquires")
    with mock.patch.object(lease_module, "_REFRESH_S", 0.01), mock.patch.object(lease_module, "ACQUIRES_BURST_S", 0.0):
        wish = Acquisition(project, "r", "r", ResumeMode.ALLOW, "n", 30 * SECOND_US, HOLDER)
        waiting = live.spawn(live.leases.acquire(wish, Patience(20 * SECOND_US)))
        stats = live.raw.info("commandstats")["cmdstat_evalsha"]["calls"]
        while live.raw.info("commandstats")["cmdstat_evalsha"]["calls"] < stats + 20:  # looks, not sleeps
            pass
        live.release(project, fence)
        assert waiting.result(20).attempt == 2


def test_a_run_has_no_limit_of_acquires() -> None:
    with pytest.raises(InvalidField) as caught:
        change_of(pb.Limits(acquires=1), of_run=True)
    assert caught.value.field == "limits.acquires"
