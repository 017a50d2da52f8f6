"""Reads of histories hold a bounded amount together: others wait, the oldest goes on, who waits too long is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from runlease_coordinator.domain.errors import Overloaded
from runlease_coordinator.domain.metrics import Series
from runlease_coordinator.history import hot
from runlease_coordinator.history.archive import ArchivedLog
from runlease_coordinator.history.budget import ReadBudget
from runlease_coordinator.history.reads import HistoryReader, Query
from runlease_coordinator.store import metrics

from tests.support.stores import LiveStore, points_entry, writer_of
from tests.support.wait import until

MAIN = Query(frozenset(("main",)))
ENTRIES, ROWS = 64, 50
#: What a whole read holds at most, in bytes of numbers alone.
WHOLE = ENTRIES * ROWS * 24
KEYS = ["a", "b", "c", "d"]


@pytest.fixture
def history(live: LiveStore, project: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project whose run `r` has a quarter of its points under each of four keys, in small pages."""
    monkeypatch.setattr(metrics, "_FIRST_PAGE", 8)
    monkeypatch.setattr(metrics, "_LARGEST_PAGE", 8)
    writer = writer_of(project, live.acquire(project).fence)
    live.run(live.metrics.open_writer(writer))
    for seq in range(1, ENTRIES + 1):
        rows = [(seq * ROWS + row, float(row)) for row in range(ROWS)]
        live.run(live.metrics.append(writer, points_entry(seq, rows, key=KEYS[seq % 4])))
    return project


Reading = Callable[[], AsyncGenerator[Series]]


def reading_of(live: LiveStore, project: str, budget: ReadBudget) -> Reading:
    reader = HistoryReader(live.runs, live.metrics, ArchivedLog(live.archive, live.objects), budget=budget)

    async def reading() -> AsyncGenerator[Series]:
        async with aclosing(reader.series(await reader.moment(project, "r", "r"), MAIN)) as found:
            async for one in found:
                yield one

    return reading


@asynccontextmanager
async def begun(reading: Reading) -> AsyncGenerator[AsyncGenerator[Series]]:
    """A read that has given out its first series and holds the others: a caller that reads no further."""
    async with aclosing(reading()) as found:
        await anext(found)
        yield found


async def points(reading: Reading) -> int:
    return sum([len(one) async for one in reading()])


def test_all_that_is_held_is_given_back(live: LiveStore, history: str) -> None:
    async def story() -> None:
        budget = ReadBudget()
        reading = reading_of(live, history, budget)
        assert await points(reading) == ENTRIES * ROWS
        assert budget.bytes == 0
        async with begun(reading):
            assert budget.bytes > 0
        assert budget.bytes == 0

    live.run(story())


def test_the_oldest_goes_on_and_the_next_waits_for_it(live: LiveStore, history: str) -> None:
    async def story() -> None:
        budget = ReadBudget(WHOLE // 4, patience_s=60)  # not even one read fits
        reading = reading_of(live, history, budget)
        async with begun(reading) as first:
            second = asyncio.create_task(points(reading))
            third = asyncio.create_task(points(reading))
            held = budget.bytes
            await asyncio.to_thread(until, lambda: budget.waiting == 2)
            assert budget.bytes <= max(held, WHOLE // 4)
            assert not second.done()
            assert sum([len(one) async for one in first]) > 0
        assert await asyncio.gather(second, third) == [ENTRIES * ROWS] * 2
        assert (budget.bytes, budget.waiting) == (0, 0)

    live.run(story())


@pytest.mark.parametrize("archived", [False, True])
def test_who_waits_too_long_is_told_to_come_back(live: LiveStore, history: str, archived: bool) -> None:
    while archived and live.run(live.compactor.compact(history, "r")):
        pass

    async def story() -> None:
        budget = ReadBudget(WHOLE // 4, patience_s=0.1)
        reading = reading_of(live, history, budget)
        async with begun(reading):
            with pytest.raises(Overloaded, match=r"--read-bytes") as caught:
                await points(reading)
            assert (caught.value.reason, caught.value.retry_after_ms > 0) == ("TOO_MANY_READS", True)
        assert await points(reading) == ENTRIES * ROWS

    live.run(story())


def test_what_is_on_its_way_counts_before_it_comes(live: LiveStore, history: str) -> None:
    # Given room for the pages of two reads that go on, and for all that they hold.
    async def story() -> None:
        budget = ReadBudget(2 * hot._ON_THE_WAY_BYTES + 3 * WHOLE, patience_s=60)
        with budget.read() as one, budget.read() as other:
            for share in (one, other):
                await share.take(hot._ON_THE_WAY_BYTES)
            third = asyncio.create_task(points(reading_of(live, history, budget)))
            await asyncio.to_thread(until, lambda: budget.waiting == 1)
            other.give_back(hot._ON_THE_WAY_BYTES)
            assert await third == ENTRIES * ROWS

    live.run(story())
