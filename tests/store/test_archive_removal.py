"""Purges, retention and the garbage: what goes, what stays, and that nobody reads half of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runlease_coordinator.domain.errors import BadBranch, RunNotFound
from runlease_coordinator.history.retention import Retention
from runlease_coordinator.store.keys import run_keys

from tests.support.archive import Archiving
from tests.support.objects import MemoryObjects
from tests.support.stores import LiveStore, commit_entry, points_entry, writer_of

DAY_S = 86_400.0


def logged(live: LiveStore, project: str, run_id: str = "r", *, seqs: int = 2) -> int:
    fence = live.acquire(project, run_id).fence
    writer = writer_of(project, fence, run_id=run_id)
    live.run(live.metrics.open_writer(writer))
    for seq in range(1, seqs + 1):
        live.run(live.metrics.append(writer, points_entry(seq, [(seq, float(seq))])))
    live.run(live.metrics.append(writer, commit_entry(seqs + 1, seqs, fence)))
    return fence


def purge(live: LiveStore, project: str, run_id: str, fence: int) -> None:
    live.run(live.runs.delete_run(project, run_id, run_id, fence, ""))
    live.run(live.runs.purge_run(project, run_id, run_id, fence, ""))


def age(live: LiveStore, project: str, run_id: str, days: float) -> None:
    """Let a run have ended so many days ago."""
    keys = run_keys(project, run_id)
    then = live.now_us() - int(days * DAY_S * 1e6)
    live.raw.hset(keys.attempts, f"{live.get(project, run_id).run.attempt}.ended", then)
    live.raw.zadd(keys.runs, {run_id: then})


def test_a_purge_removes_the_objects(live: LiveStore, project: str) -> None:
    objects = MemoryObjects()
    archiving = Archiving(live, Path(), objects=objects)
    fences = {run_id: logged(live, project, run_id) for run_id in ("r", "other")}
    for run_id, fence in fences.items():
        assert archiving.compact(project, run_id)
        live.release(project, fence, run_id=run_id)
    purge(live, project, "r", fences["r"])
    assert len(objects.content) == 4  # two parts, and their segments: who reads them may go on
    archiving.collect()
    assert sorted(objects.content) == sorted(
        [part.path for part in archiving.manifest(project, "other").parts] + [f"{project}/other/segments.parquet"]
    )
    # A run of the same name starts with nothing, and keeps its own objects.
    fence = logged(live, project, "r", seqs=1)
    assert archiving.compact(project, "r")
    archiving.collect()
    assert [point[2] for point in archiving.shown(project, "r")] == [1]
    assert f"{project}/r/segments.parquet" in objects.content
    live.release(project, fence)


def test_a_name_that_is_used_again_at_once_keeps_its_segments(live: LiveStore, project: str) -> None:
    objects = MemoryObjects()
    archiving = Archiving(live, Path(), objects=objects)
    fence = logged(live, project)
    assert archiving.compact(project)
    live.release(project, fence)
    purge(live, project, "r", fence)
    logged(live, project, seqs=1)
    assert archiving.compact(project)  # before the garbage was looked at
    archiving.collect()
    assert sorted(objects.content) == [archiving.manifest(project).parts[0].path, f"{project}/r/segments.parquet"]


def test_a_parent_keeps_its_objects_while_it_is_shown(live: LiveStore, project: str) -> None:
    archiving = Archiving(live, Path(), objects=MemoryObjects())
    parent, child = logged(live, project, "parent"), logged(live, project, "child", seqs=1)
    assert archiving.compact(project, "parent")
    live.run(live.runs.link(project, "child", "child", "parent", 1))
    live.release(project, parent, run_id="parent")
    live.run(live.runs.delete_run(project, "parent", "parent", parent, ""))
    with pytest.raises(BadBranch):
        live.run(live.runs.purge_run(project, "parent", "parent", parent, ""))
    age(live, project, "parent", 10)
    assert not live.run(archiving.store.expire_points(project, "parent", DAY_S, 0))
    archiving.collect()
    assert [point[2] for point in archiving.shown(project, "parent")] == [1, 2]
    live.release(project, child, run_id="child")


def test_a_purge_in_the_middle_of_a_compaction(live: LiveStore, project: str) -> None:
    class Purged(MemoryObjects):
        def put(self, path: str, content: memoryview) -> None:
            super().put(path, content)
            if "/parts/" in path:
                purge(live, project, "r", fence)

    objects = Purged()
    archiving = Archiving(live, Path(), objects=objects)
    fence = logged(live, project)
    live.release(project, fence)
    assert not archiving.compact(project)
    with pytest.raises(RunNotFound):
        live.get(project)
    assert objects.parts() == []
    assert not archiving.compact(project)


def test_points_expire_and_the_record_stays(live: LiveStore, project: str) -> None:
    objects = MemoryObjects()
    archiving = Archiving(live, Path(), objects=objects)
    fences = {run_id: logged(live, project, run_id) for run_id in ("archived", "hot", "young", "running")}
    assert archiving.compact(project, "archived")
    for run_id in ("archived", "hot", "young"):
        live.release(project, fences[run_id], run_id=run_id)
    for run_id, days in (("archived", 8), ("hot", 8), ("young", 6)):
        age(live, project, run_id, days)
    live.raw.zadd(run_keys(project, "r").runs, {"running": 0})
    before = live.get(project, "archived")
    retention = Retention(archiving.store, 7 * DAY_S, grace_s=0)
    assert live.run(retention.sweep()) == 2
    assert live.run(retention.sweep()) == 0
    for run_id in ("archived", "hot"):
        assert archiving.shown(project, run_id) == []
        assert archiving.hot_bytes(project, run_id) is None
    for run_id in ("young", "running"):
        assert len(archiving.shown(project, run_id)) == 2
    after = live.get(project, "archived")
    assert after.run.checkpoints == before.run.checkpoints != []
    assert after.run.attempts == before.run.attempts
    assert after.run.points == before.run.points
    archiving.collect()
    assert [path for path in objects.content if "/archived/" in path] == []
    events = live.raw.xrevrange(run_keys(project, "r").partition.events, count=2)
    assert {(fields["k"], fields["r"]) for _, fields in events} == {
        ("points_expired", "archived"),
        ("points_expired", "hot"),
    }
    # It can be resumed, and logs again.
    fence = logged(live, project, "archived", seqs=3)
    assert archiving.compact(project, "archived")
    assert [point[2] for point in archiving.shown(project, "archived")] == [1, 2, 3]
    live.release(project, fence, run_id="archived")


def test_a_reader_that_has_begun_sees_expired_points_or_none(live: LiveStore, project: str) -> None:
    class Expiring(MemoryObjects):
        """The part goes while it is opened."""

        def open(self, path: str) -> object:
            assert live.run(archiving.store.expire_points(project, "r", DAY_S, 0))
            self.content.clear()
            return super().open(path)

    archiving = Archiving(live, Path(), objects=Expiring())
    fence = logged(live, project)
    assert archiving.compact(project)
    live.release(project, fence)
    age(live, project, "r", 8)
    assert archiving.shown(project) == []
