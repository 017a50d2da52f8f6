"""Cuts, commits and reads of the archive: whatever is archived, histories are the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from runlease_coordinator.domain.metrics import Writer
from runlease_coordinator.store.keys import run_keys

from tests.support.archive import Archiving
from tests.support.stores import LiveStore, commit_entry, points_entry, rewind_entry, writer_of


def opened(live: LiveStore, project: str, run_id: str = "r", name: str = "main", fence: int | None = None) -> Writer:
    fence = live.acquire(project, run_id).fence if fence is None else fence
    writer = writer_of(project, fence, name=name, run_id=run_id)
    live.run(live.metrics.open_writer(writer))
    return writer


def log(live: LiveStore, writer: Writer, seq: int, rows: list[tuple[int, float]], segment: int = 0) -> None:
    live.run(live.metrics.append(writer, points_entry(seq, rows, segment=segment)))


def test_what_is_archived_reads_as_before(live: LiveStore, project: str, tmp_path: Path) -> None:
    archiving = Archiving(live, tmp_path)
    writer = opened(live, project)
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    log(live, writer, 1, list(enumerate(values)))
    log(live, writer, 2, [(2**53 - 2, 1.0), (3, 2.0)])
    before = archiving.shown(project)
    assert archiving.compact(project)
    assert archiving.hot_entries(project) == 0
    assert archiving.hot_bytes(project) is None
    assert archiving.shown(project) == before
    log(live, writer, 3, [(4, 3.0)])
    assert archiving.hot_entries(project) == 1
    mixed = archiving.shown(project)
    assert archiving.compact(project)
    assert archiving.shown(project) == mixed
    assert len(archiving.manifest(project).parts) == len(archiving.parts()) == 2
    assert not archiving.compact(project)


def test_rewinds_attempts_and_writers_survive(live: LiveStore, project: str, tmp_path: Path) -> None:
    archiving, untouched = Archiving(live, tmp_path), Archiving(live, tmp_path / "none")
    first = opened(live, project)
    log(live, first, 1, [(step, 1.0) for step in range(10)])
    live.run(live.metrics.append(first, commit_entry(2, 4, first.fence)))
    live.run(live.metrics.append(first, rewind_entry(3, 6, segment=1)))
    log(live, first, 4, [(step, 2.0) for step in range(6, 9)], segment=1)
    other = opened(live, project, name="rank1", fence=first.fence)
    log(live, other, 1, [(0, 7.0)])
    live.release(project, first.fence)
    second = opened(live, project)
    log(live, second, 1, [(step, 3.0) for step in range(5, 7)])

    def everything() -> list[object]:
        return [
            (archiving.shown(project, writers=writers, superseded=superseded))
            for writers in (("main",), ("rank1",), ("main", "rank1"))
            for superseded in (False, True)
        ]

    before = everything()
    assert untouched.shown(project) == before[0]
    # Given parts of one entry each, every mix of hot and archived is read once.
    small = Archiving(live, tmp_path, part_points=1)
    parts = 0
    while small.compact(project):
        parts += 1
        assert everything() == before
    assert (parts, archiving.hot_entries(project)) == (1, 0)  # a page is never split


def test_a_fork_reads_its_parent_from_the_archive(live: LiveStore, project: str, tmp_path: Path) -> None:
    archiving = Archiving(live, tmp_path)
    parent = opened(live, project, "parent")
    log(live, parent, 1, [(step, 1.0) for step in range(10)])
    assert archiving.compact(project, "parent")
    # Given a log that is archived whole, the fork still knows where it ended.
    child = opened(live, project, "child")
    live.run(live.runs.link(project, "child", "child", "parent", 7))
    log(live, parent, 2, [(5, 9.0), (6, 9.0)])  # later than the link: not the child's
    log(live, child, 1, [(8, 2.0)])
    before = archiving.shown(project, "child")
    assert [point[2] for point in before] == [*range(8), 8]
    assert archiving.compact(project, "parent")
    assert archiving.compact(project, "child")
    assert archiving.shown(project, "child") == before


def test_only_what_was_cut_is_trimmed(live: LiveStore, project: str, tmp_path: Path) -> None:
    archiving = Archiving(live, tmp_path)
    writer = opened(live, project)
    for seq in range(1, 200):
        log(live, writer, seq, [(seq, float(seq))])
    size = archiving.hot_bytes(project)
    small = Archiving(live, tmp_path, part_points=10)
    assert small.compact(project)
    assert archiving.hot_entries(project) == 199 - 16  # a page
    left = archiving.hot_bytes(project)
    assert left is not None
    assert size is not None
    assert 0 < left < size
    assert small.compact_all(project) == 12
    assert [point[2] for point in archiving.shown(project)] == list(range(1, 200))
    assert live.raw.hget(run_keys(project, "r").parts, "cut") is None


@pytest.mark.parametrize("run_id", ["Run", "run", "RUN"])
def test_ids_that_differ_in_case_keep_apart(live: LiveStore, project: str, tmp_path: Path, run_id: str) -> None:
    archiving = Archiving(live, tmp_path)
    paths = set()
    for name in ("Run", "run", "RUN"):
        writer = opened(live, project, name)
        log(live, writer, 1, [(0, 1.0 if name == run_id else 2.0)])
        assert archiving.compact(project, name)
        paths |= {part.path.lower() for part in archiving.manifest(project, name).parts}
    assert len(paths) == 3
    assert archiving.shown(project, run_id)[0][3] == (1.0).hex()
