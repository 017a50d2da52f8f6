"""How much there may be of what only grows: refused beyond it, with what is there untouched."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from runlease_coordinator.domain.errors import LimitReached, Overloaded
from runlease_coordinator.domain.leases import Acquisition, Patience, ResumeMode
from runlease_coordinator.domain.limits import BOUNDS
from runlease_coordinator.rpc.fields import MAX_JSON_BYTES
from runlease_coordinator.store.keys import partition_keys, partition_of, run_keys
from runlease_coordinator.store.leases import LeaseStore
from runlease_coordinator.store.metrics import Appended, Full, MetricStore
from runlease_coordinator.store.runs import RunStore

from tests.support.stores import HOLDER, TTL_US, LiveStore, commit_entry, points_entry, writer_of
from tests.support.wait import until


def leases(live: LiveStore, **bounds: int) -> LeaseStore:
    return LeaseStore(live.store, live.wakeups, 0, replace(BOUNDS, **bounds))


def refused(live: LiveStore, project: str, run_id: str = "r", *, remedy: str, **more: Any) -> None:
    before = live.dump(project, run_id)
    with pytest.raises(LimitReached, match=remedy):
        live.acquire(project, run_id, **more)
    assert live.dump(project, run_id) == before


def wish(project: str, nonce: str) -> Acquisition:
    return Acquisition(
        project=project, id="r", canonical_id="r", mode=ResumeMode.ALLOW, nonce=nonce, ttl_us=TTL_US, holder=HOLDER
    )


def test_runs_of_a_project(live: LiveStore, project: str) -> None:
    few = leases(live, runs=2)
    live.acquire(project, "a", leases=few)
    fence = live.acquire(project, "b", leases=few).fence
    refused(live, project, "c", leases=few, remedy="2 runs: delete old ones")
    # Those that are there go on, and one that is deleted leaves room.
    live.release(project, fence, run_id="b")
    fence = live.acquire(project, "b", leases=few).fence
    live.release(project, fence, run_id="b")
    live.run(live.runs.delete_run(project, "b", "b", fence, ""))
    live.acquire(project, "c", leases=few)


def test_projects_of_a_partition(live: LiveStore, project: str) -> None:
    live.acquire(project)
    there = live.raw.zcard(partition_keys(partition_of(project)).projects)
    few = leases(live, projects=there)
    live.acquire(project, "another", leases=few)
    other = next(name for n in range(9999) if partition_of(name := f"other-{n}") == partition_of(project))
    refused(live, other, leases=few, remedy="use one that is there")


def test_attempts_of_a_run(live: LiveStore, project: str) -> None:
    few = leases(live, attempts=2)
    for _ in range(2):
        live.release(project, live.acquire(project, leases=few).fence)
    refused(live, project, leases=few, remedy="fork_from")
    live.acquire(project, leases=few, sync=True)  # opens none: what is spooled still comes in


@pytest.mark.parametrize("summary", [False, True])
def test_bytes_of_a_record(live: LiveStore, project: str, summary: bool) -> None:
    few = replace(BOUNDS, record_bytes=100)
    fence = live.acquire(project, config={"lr": "1"}).fence
    runs = RunStore(live.store, few)

    def update(key: str, text: str) -> None:
        unchanged: dict[str, Any] = {"name": None, "notes": "said", "tags": None}
        given = {"config": {}, "summary": {key: text}} if summary else {"config": {key: text}, "summary": {}}
        live.run(runs.update_run(project, "r", fence, **unchanged, **given))

    update("k", '"' + "x" * 50 + '"')
    update("k", '"' + "y" * 70 + '"')  # in place of it, not besides
    record = live.raw.hgetall(run_keys(project, "r").run)
    with pytest.raises(LimitReached, match="put what is large into a file"):
        update("j", '"' + "x" * 20 + '"')
    assert live.raw.hgetall(run_keys(project, "r").run) == record
    live.release(project, fence)
    more = {"lr": "2", "j": '"' + "x" * 20 + '"'}
    refused(live, project, leases=leases(live, record_bytes=100), config=more, remedy="a file")
    live.acquire(project, leases=leases(live, record_bytes=100), config={"lr": "2"})


def test_places_in_a_queue(live: LiveStore, project: str) -> None:
    few = leases(live, waiters=2)
    fence = live.acquire(project).fence
    keys = run_keys(project, "r")

    async def story() -> None:
        waiting = [asyncio.create_task(few.acquire(wish(project, f"w{n}"), Patience(10_000_000))) for n in range(2)]
        while await live.store.reads.call("ZCARD", keys.wait) < 2:
            pass  # each look is a round trip
        with pytest.raises(Overloaded, match="2 wait") as caught:
            await few.acquire(wish(project, "w2"), Patience(10_000_000))
        assert caught.value.reason == "TOO_MANY_WAITERS"
        # Places that have died are no reason to refuse anybody.
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    live.run(story())
    until(lambda: live.raw.zcard(keys.wait) == 0)
    for nonce in ("dead-1", "dead-2"):
        live.raw.zadd(keys.wait, {nonce: 5 if nonce == "dead-1" else 6})
        live.raw.hset(keys.waitx, nonce, f"{live.now_us() - 1} call")
    coming = live.spawn(few.acquire(wish(project, "w3"), Patience(10_000_000)))
    live.release(project, fence)
    assert coming.result(20).fence > fence


def test_names_of_metrics(live: LiveStore, project: str) -> None:
    metrics = MetricStore(live.store, replace(BOUNDS, names=50))
    writer = writer_of(project, live.acquire(project).fence)
    live.run(metrics.open_writer(writer))

    def log(seq: int, *names: str) -> object:
        entry = replace(points_entry(seq, [(seq, 1.0)], key=names[0]), names=names)
        return live.run(metrics.append(writer, entry))

    assert log(1, *(f"k{n}" for n in range(60))) == Appended(1)  # one batch beyond it
    for seq in (2, 3):  # refused as often as it comes
        full = log(seq, "new")
        assert isinstance(full, Full)
        assert (full.seq, full.field, "50 names" in full.what) == (seq, "entry.points.series", True)
    assert log(4, "k0", "k59") == Appended(4)
    assert log(5, "k1", *(f"n{n}" for n in range(2500))) != Appended(5)  # more than a call of Lua's takes
    (series,) = live.read(project)
    assert (series.key, series.steps.tolist()) == ("k0", [1, 4])


def test_thousands_of_names_at_once(live: LiveStore, project: str) -> None:
    writer = writer_of(project, live.acquire(project).fence)
    live.run(live.metrics.open_writer(writer))
    names = [f"name/{number}" for number in range(10_000)]
    entry = replace(points_entry(1, [(1, 1.0)]), names=names)
    assert live.run(live.metrics.append(writer, entry)) == Appended(1)
    assert 9_500 < live.raw.pfcount(run_keys(project, "r").names) < 10_500


def test_bytes_of_checkpoints(live: LiveStore, project: str) -> None:
    fence = live.acquire(project).fence
    writer = writer_of(project, fence)
    entry = commit_entry(1, 1, fence)
    metrics = MetricStore(live.store, replace(BOUNDS, checkpoint_bytes=2 * len(entry.payload)))
    live.run(metrics.open_writer(writer))
    for seq in (1, 2):
        assert live.run(metrics.append(writer, commit_entry(seq, seq, fence))) == Appended(seq)
    full = live.run(metrics.append(writer, commit_entry(3, 3, fence)))
    assert isinstance(full, Full)
    assert (full.seq, full.field) == (3, "entry.commit")
    # It used its seq up, and what was committed stays.
    assert live.run(metrics.append(writer, points_entry(4, [(4, 1.0)]))) == Appended(4)
    assert [c.step for c in live.get(project).run.checkpoints] == [1, 2]


def test_what_a_request_may_bring_fits() -> None:
    # Given the widest characters, the config of one call and the summary of another are within the bound.
    assert BOUNDS.record_bytes >= 2 * 4 * MAX_JSON_BYTES
