"""Compactors that die, are overtaken or meet: nothing is lost, nothing is there twice."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runlease_coordinator.domain.archive import Part
from runlease_coordinator.domain.errors import Unavailable
from runlease_coordinator.domain.metrics import LOG_START, LogPosition
from runlease_coordinator.history.objects import ArchiveError
from runlease_coordinator.store.archive import Claim
from runlease_coordinator.store.keys import run_keys

from tests.support.archive import Archiving
from tests.support.objects import MemoryObjects
from tests.support.stores import LiveStore, points_entry, rewind_entry, writer_of

DIGEST = "d"


def fill(live: LiveStore, project: str, entries: int = 3) -> int:
    """Log some entries, of which a later one supersedes an earlier one; returns the fence."""
    fence = live.acquire(project).fence
    writer = writer_of(project, fence)
    live.run(live.metrics.open_writer(writer))
    for seq in range(1, entries + 1):
        rows = [(seq + i, float(seq)) for i in range(3)]
        live.run(live.metrics.append(writer, points_entry(seq, rows)))
    live.run(live.metrics.append(writer, rewind_entry(entries + 1, 2, segment=1)))
    live.run(live.metrics.append(writer, points_entry(entries + 2, [(2, -1.0)], segment=1)))
    return fence


def claimed(archiving: Archiving, live: LiveStore, project: str, for_s: float = 60.0) -> Claim:
    claim = live.run(archiving.store.claim(project, "r", for_s))
    assert claim is not None
    return claim


def part_of(claim: Claim, to: LogPosition, path: str = "p/r/parts/x.parquet") -> Part:
    return Part(path, claim.after, to, 10, 100, 0, 5)


def commit(archiving: Archiving, live: LiveStore, claim: Claim, part: Part) -> bool:
    return live.run(archiving.store.commit(claim, part, 50, "p/r/segments.parquet", DIGEST))


def test_a_run_is_compacted_by_one_at_a_time(live: LiveStore, project: str, tmp_path: Path) -> None:
    fence = fill(live, project)
    first, second = Archiving(live, tmp_path, owner="a"), Archiving(live, tmp_path, owner="b")
    claim = claimed(first, live, project)
    assert live.run(second.store.claim(project, "r", 60)) is None
    assert not second.compact(project)
    # Given up, or past its time, it is anybody's; the one that had it is refused from then on.
    live.run(first.store.give_up(claim))
    later = claimed(second, live, project, for_s=0)
    assert later.generation > claim.generation
    assert not live.run(first.store.begin(claim, LogPosition(fence, 1), "p/r/parts/x.parquet", 60))
    assert not commit(first, live, claim, part_of(claim, LogPosition(fence, 1)))
    assert live.run(first.store.claim("none", "r", 60)) is None


def test_a_commit_counts_once_and_only_as_it_was_cut(live: LiveStore, project: str, tmp_path: Path) -> None:
    fence = fill(live, project)
    archiving = Archiving(live, tmp_path)
    claim = claimed(archiving, live, project)
    to = LogPosition(fence, 1)
    assert not commit(archiving, live, claim, part_of(claim, to))  # never begun
    assert live.run(archiving.store.begin(claim, to, "p/r/parts/x.parquet", 60))
    assert not live.run(archiving.store.begin(claim, LogPosition(fence, 2), "p/r/parts/y.parquet", 60))
    assert not commit(archiving, live, claim, part_of(claim, LogPosition(fence, 2)))
    assert not commit(archiving, live, claim, part_of(claim, to, "p/r/parts/other.parquet"))
    entries = archiving.hot_entries(project)
    for _ in range(2):  # a repetition answers the same and changes nothing
        assert commit(archiving, live, claim, part_of(claim, to))
        assert archiving.hot_entries(project) == entries - 2
        assert len(archiving.manifest(project).parts) == 1
    assert archiving.manifest(project).to == to
    assert claimed(archiving, live, project).after == to


def test_what_the_garbage_took_is_no_part(live: LiveStore, project: str, tmp_path: Path) -> None:
    fence = fill(live, project)
    archiving = Archiving(live, tmp_path)
    claim = claimed(archiving, live, project)
    assert live.run(archiving.store.begin(claim, LogPosition(fence, 1), "p/r/parts/x.parquet", 60))
    garbage = run_keys(project, "r").partition.garbage
    live.raw.zadd(garbage, {"p/r/parts/x.parquet": 0})  # an hour later
    number = int(garbage[4:6])
    assert live.run(archiving.store.take_garbage(number)) == ["p/r/parts/x.parquet"]
    assert not commit(archiving, live, claim, part_of(claim, LogPosition(fence, 1)))
    assert archiving.manifest(project).to == LOG_START


def test_a_zombie_changes_nothing(live: LiveStore, project: str) -> None:
    fill(live, project)
    before = live.read(project)[0].values.tolist()

    class Overtaken(MemoryObjects):
        """Its first write of a part lasts until another coordinator has taken over and is done."""

        def put(self, path: str, content: memoryview) -> None:
            super().put(path, content)
            if "/parts/" in path and not self.parts()[1:]:
                assert other.compact(project)

    objects = Overtaken()
    zombie = Archiving(live, Path(), owner="zombie", objects=objects, claim_s=0.0)
    other = Archiving(live, Path(), owner="other", objects=objects)
    assert not zombie.compact(project)
    manifest = other.manifest(project)
    assert [part.path for part in manifest.parts] == objects.parts()  # it removed its own
    assert other.read(project)[0].values.tolist() == before
    assert not other.compact(project)


def test_two_compactors_at_once(live: LiveStore, project: str) -> None:
    objects = MemoryObjects()
    compactors = [Archiving(live, Path(), owner=name, objects=objects, part_points=1) for name in "ab"]
    for number in range(6):
        fence = fill(live, project, entries=40)
        shown = compactors[0].shown(project)
        futures = [live.spawn(one.compactor.compact(project, "r")) for one in compactors for _ in range(3)]
        committed = sum(future.result(30) for future in futures)
        assert committed >= 1, number
        for one in compactors:
            one.compact_all(project)
            assert one.shown(project) == shown
        live.release(project, fence)
    parts = compactors[0].manifest(project).parts
    assert all(before.to == after.after for before, after in itertools.pairwise(parts))
    assert sorted(part.path for part in parts) == objects.parts()


def test_killed_at_any_step(live: LiveStore, project: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.mortal", live.embedded.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mortals:
        steps = 0
        while is_killed(live, project, tmp_path, mortals, steps):
            steps += 1
    assert mortals.returncode == 0
    assert steps > 12, "the driver no longer reaches all steps"


def is_killed(live: LiveStore, project: str, folder: Path, mortals: subprocess.Popen[str], step: int) -> bool:
    """Let a compactor die at a step and another one go on; returns whether there was such a step."""
    run_id, folder = f"r{step}", folder / str(step)
    writer = writer_of(project, live.acquire(project, run_id).fence, run_id=run_id)
    live.run(live.metrics.open_writer(writer))
    for seq in range(1, 5):
        live.run(live.metrics.append(writer, points_entry(seq, [(seq, float(seq)), (0, -float(seq))])))
    archiving = Archiving(live, folder)
    shown = archiving.shown(project, run_id, superseded=True)
    assert mortals.stdin is not None
    assert mortals.stdout is not None
    print(folder, f"{project}/{run_id}", step, file=mortals.stdin, flush=True)
    status = int(mortals.stdout.readline())
    # Readers see no difference, whatever it left behind.
    assert archiving.shown(project, run_id, superseded=True) == shown
    if status == 0:
        return False
    assert status == -signal.SIGKILL
    live.wait_past(int(live.raw.hget(run_keys(project, run_id).parts, "until") or 0))
    archiving.compact_all(project, run_id)
    assert archiving.shown(project, run_id, superseded=True) == shown
    manifest = archiving.manifest(project, run_id)
    assert (archiving.hot_entries(project, run_id), len(manifest.parts)) == (0, 1)
    # What the dead one left is garbage, be it half a file.
    archiving.collect()
    assert archiving.parts() == [manifest.parts[0].path]
    assert [path for path in folder.rglob("*.tmp") if "part-" in path.name] == []
    return True


def test_an_archive_that_is_away_costs_nothing(live: LiveStore, project: str) -> None:
    objects = MemoryObjects()
    archiving = Archiving(live, Path(), objects=objects)
    fill(live, project)
    shown = archiving.shown(project)
    entries = archiving.hot_entries(project)
    objects.away = True
    with pytest.raises(ArchiveError, match="memory://archive"):
        archiving.compact(project)
    assert archiving.hot_entries(project) == entries
    assert archiving.shown(project) == shown
    # Given that it is back, the same compactor goes on at once.
    objects.away = False
    assert archiving.compact(project)
    assert archiving.shown(project) == shown
    objects.away = True
    with pytest.raises(Unavailable, match="memory://archive") as refusal:
        archiving.shown(project)
    assert refusal.value.reason == "ARCHIVE_UNAVAILABLE"
    objects.away = False
    objects.content.clear()
    with pytest.raises(Unavailable, match="is missing"):
        archiving.shown(project)
