"""How histories are read: page by page in threads, and no further than somebody waits for them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from runlease_coordinator.domain.metrics import Batch, Entry, LogPosition, Series, Writer
from runlease_coordinator.history.archive import ArchivedLog
from runlease_coordinator.history.reads import HistoryReader, Query
from runlease_coordinator.history.selection import Selection
from runlease_coordinator.history.workers import Workers
from runlease_coordinator.store import archive as archive_store
from runlease_coordinator.store import metrics
from runlease_coordinator.store.metrics import Appended

from tests.support.archive import Archiving
from tests.support.stores import LiveStore, points_entry, writer_of

_P = ParamSpec("_P")
_T = TypeVar("_T")
PAGE = 64
MAIN = Query(frozenset(("main",)))


class HeldWorkers(Workers):
    """Lets no call go on before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.called = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        def held() -> _T:
            self.called.release()
            assert self.go.acquire(timeout=60)
            return call(*args, **kwargs)

        return await super().run(held)


def log(live: LiveStore, project: str, entries: int) -> None:
    writer = writer_of(project, live.acquire(project).fence)
    put(live, writer, *(points_entry(seq, [(seq, float(seq))]) for seq in range(1, entries + 1)))


def reads_of(live: LiveStore) -> int:
    """Return how many pages of streams the store was asked for so far."""
    return int(live.raw.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"])


async def read(live: LiveStore, reader: HistoryReader, project: str) -> list[Series]:
    moment = await reader.moment(project, "r", "r")
    return [one async for one in reader.series(moment, MAIN)]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> HeldWorkers:
    monkeypatch.setattr(metrics, "_FIRST_PAGE", PAGE)
    monkeypatch.setattr(metrics, "_LARGEST_PAGE", PAGE)  # small entries get larger pages
    return HeldWorkers()


def test_the_next_page_is_on_its_way_while_one_is_decoded(live: LiveStore, project: str, workers: HeldWorkers) -> None:
    log(live, project, 2 * PAGE)
    before = reads_of(live)
    reading = live.spawn(read(live, HistoryReader(live.runs, live.metrics, workers=workers), project))
    assert workers.called.acquire(timeout=60)
    while reads_of(live) < before + 2:  # the first page waits for its thread, and the second is asked for
        pass
    for _ in range(3):
        workers.go.release()
    (series,) = reading.result(60)
    assert series.steps.tolist() == list(range(1, 2 * PAGE + 1))


def test_who_goes_away_ends_the_read(live: LiveStore, project: str, workers: HeldWorkers) -> None:
    log(live, project, 9 * PAGE)
    before = reads_of(live)
    reading = live.spawn(read(live, HistoryReader(live.runs, live.metrics, workers=workers), project))
    assert workers.called.acquire(timeout=60)
    reading.cancel()
    with pytest.raises(CancelledError):
        reading.result(60)
    for _ in range(20):
        workers.go.release()
    # When all calls since are answered, then no page but the next one was ever asked for.
    live.run(live.runs.get_run(project, "r", "r"))
    assert before < reads_of(live) <= before + 2
    assert len(live.read(project)) == 1
    assert reads_of(live) > before + 9


def test_late_entries_take_their_attempts_place_and_show_when_they_come(live: LiveStore, project: str) -> None:
    # Given attempt 1, whose steps 2..4 stayed in a spool, and attempt 2, which went on from step 3.
    first = writer_of(project, live.acquire(project).fence)
    second_values = [(3, 23.0), (4, 24.0)]
    put(live, first, points_entry(1, [(0, 10.0), (1, 11.0)]))
    live.release(project, first.fence, "crashed")
    second = writer_of(project, live.acquire(project, resume_step=3).fence)
    put(live, second, points_entry(1, second_values))
    live.release(project, second.fence, "crashed")
    cursor = live.run(live.history.moment(project, "r", "r")).position
    # When they come in, then the read that follows the log sees what of them counts, and the curve is whole.
    late = replace(writer_of(project, live.acquire(project, sync=True).fence, session="late"), attempt=1)
    put(live, late, points_entry(2, [(2, 12.0), (3, 13.0), (4, 14.0)]))
    following = live.run(live.read_history(project, "r", replace(MAIN, after=cursor)))
    assert [(one.steps.tolist(), one.values.tolist()) for one in following] == [([2], [12.0])]
    (whole,) = live.read(project)
    assert list(zip(whole.steps, whole.values, strict=True)) == [(0, 10.0), (1, 11.0), (2, 12.0), *second_values]
    assert whole.attempts.tolist() == [1, 1, 1, 2, 2]
    (everything,) = live.read(project, superseded=True)
    assert everything.superseded is not None
    assert everything.values.tolist() == [10.0, 11.0, 12.0, 13.0, 23.0, 14.0, 24.0]
    assert everything.superseded.tolist() == [False, False, False, True, False, True, False]


def put(live: LiveStore, writer: Writer, *entries: Entry) -> None:
    live.run(live.metrics.open_writer(writer))
    for entry in entries:
        assert live.run(live.metrics.append(writer, entry)) == Appended(entry.seq)


class BusyArchive:
    """An archive that takes in another part whenever somebody asks how far it is."""

    def __init__(self, archiving: Archiving, project: str, live: LiveStore) -> None:
        self.archiving, self.project = archiving, project
        self.log = ArchivedLog(archiving.store, archiving.objects)
        self.asked = 0

    async def archived(self, project: str, canonical_id: str) -> LogPosition:
        self.asked += 1
        await self.archiving.compactor.compact(project, canonical_id)
        return await self.log.archived(project, canonical_id)

    def batches(self, project: str, canonical_id: str, selection: Selection) -> AsyncIterator[Sequence[Batch]]:
        return self.log.batches(project, canonical_id, selection)


@pytest.mark.parametrize("start", [1, 40, 100])
def test_what_is_archived_while_it_is_read_is_read_once(
    live: LiveStore, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    # Given parts of 10 entries and pages of 64, when a part is archived between any two steps of a read.
    monkeypatch.setattr(metrics, "_FIRST_PAGE", PAGE)
    monkeypatch.setattr(archive_store, "_FIRST_PAGE", 10)
    monkeypatch.setattr(archive_store, "_LARGEST_PAGE", 10)
    log(live, project, 3 * PAGE)
    archiving = Archiving(live, tmp_path, part_points=10)
    busy = BusyArchive(archiving, project, live)
    reader = HistoryReader(live.runs, live.metrics, busy)
    query = replace(MAIN, min_step=start)
    moment = live.run(reader.moment(project, "r", "r"))

    async def steps() -> list[int]:
        return [step async for one in reader.series(moment, query) for step in one.steps.tolist()]

    before = archiving.hot_entries(project)
    for _ in range(8):
        assert live.run(steps()) == list(range(start, 3 * PAGE + 1))
    assert busy.asked > 8  # a page was torn, and more than once
    assert archiving.hot_entries(project) < before
