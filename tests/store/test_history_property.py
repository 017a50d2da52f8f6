"""Random histories through the real scripts on a real store, against a short reference that keeps everything.

Now and then the log is archived: what is read from the store, from the archive and from both is the same. What an
attempt could not deliver is brought in after later ones.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from runlease.v1 import metrics_pb2
from runlease_coordinator.domain.leases import Acquisition, Grant, ResumeMode
from runlease_coordinator.domain.metrics import LOG_START, Entry, EntryKind, Series, Writer
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.history.reads import Query
from runlease_coordinator.store.keys import run_keys
from runlease_coordinator.store.metrics import Appended

from tests.support.historymodel import Reference
from tests.support.stores import HOLDER, TTL_US, LiveStore, commit_entry, rewind_entry, writer_of

KEYS = ("acc", "loss")
WRITERS = ("main", "rank1")
_numbers = itertools.count()


STEPS = st.one_of(st.integers(0, 14), st.just(0))
OPS = st.one_of(
    st.tuples(st.just("log"), st.sampled_from(WRITERS), st.lists(STEPS, min_size=1, max_size=4)),
    st.tuples(st.just("rewind"), st.sampled_from(WRITERS), STEPS),
    st.tuples(st.just("commit"), st.sampled_from(WRITERS), STEPS),
    st.tuples(st.just("reopen"), st.sampled_from(WRITERS), st.just(0)),
    st.tuples(st.just("archive"), st.just("main"), st.just(0)),
)
ATTEMPTS = st.lists(
    st.tuples(st.one_of(st.none(), st.none(), STEPS), st.lists(OPS, max_size=8)), min_size=1, max_size=5
)
#: An attempt's number, how many attempts there are then, and what is brought in.
LATE = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.lists(OPS, min_size=1, max_size=5)), max_size=4)
History = list[tuple[int | None, list[tuple[str, str, int | list[int]]]]]
Late = list[tuple[int, int, list[tuple[str, str, int | list[int]]]]]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveStore]:
    store = LiveStore()
    store.raw.config_set("appendfsync", "no")  # durability has tests of its own
    yield store
    store.close()


def entry_of(seq: int, segment: int, rows: list[tuple[int, str, float]]) -> Entry:
    """Return an entry in which each row has one of the keys."""
    message = metrics_pb2.Points(steps=[step for step, _, _ in rows], times=[float(seq)] * len(rows))
    for key in KEYS:
        places = [place for place, row in enumerate(rows) if row[1] == key]
        if places:
            message.series.add(key=key, rows=places, values=[rows[place][2] for place in places])
    return Entry(seq, segment, EntryKind.POINTS, message.SerializeToString(), len(rows), max(row[0] for row in rows))


def points_of(history: list[Series]) -> list[tuple[str, int, float, int, bool]]:
    """(key, step, value, attempt, hidden) in the order read."""
    return [
        (one.key, step, value, attempt, hidden)
        for one in history
        for step, value, attempt, hidden in zip(
            one.steps.tolist(),
            one.values.tolist(),
            one.attempts.tolist(),
            [False] * len(one) if one.superseded is None else one.superseded.tolist(),
            strict=True,
        )
    ]


class Driver:
    """Sends one history to the scripts and to the reference, and compares at every step."""

    def __init__(self, live: LiveStore) -> None:
        self.live, self.reference = live, Reference()
        self.project = f"p{os.getpid()}-{next(_numbers)}"
        self.values = itertools.count()
        self.parts = 0

    async def grant(self, resume_step: int | None) -> Grant:
        reference = self.reference
        start, checkpoint = reference.start_and_checkpoint(resume_step)
        grant = await self.live.leases.acquire(
            Acquisition(self.project, "r", "r", ResumeMode.ALLOW, f"n{reference.attempt}", TTL_US, HOLDER, resume_step)
        )
        assert grant.attempt == reference.attempt + 1
        assert grant.next_step == reference.next_step()
        assert grant.starting_step == start
        shown = grant.checkpoint and (grant.checkpoint.step, grant.checkpoint.fence, grant.checkpoint.uri)
        assert shown == checkpoint
        reference.grant(grant.fence, start)
        return grant

    async def open(self, writer: Writer) -> None:
        assert await self.live.metrics.open_writer(writer) == self.reference.place(writer.name)

    async def op(self, writer: Writer, kind: str, what: int | list[int]) -> None:
        reference, name = self.reference, writer.name
        seq = reference.place(name).seq + 1
        if isinstance(what, list):
            numbers = [next(self.values) for _ in what]
            rows = [(step, KEYS[number % 2], float(number)) for step, number in zip(what, numbers, strict=True)]
            reference.log(name, rows)
            entry = entry_of(seq, reference.place(name).segment, rows)
        elif kind == "commit":
            uri = f"file:///{next(self.values)}"
            reference.commit(name, what, uri, late=writer.attempt > 0)
            fence = reference.fences[reference.writing]
            entry = commit_entry(seq, what, fence, segment=reference.place(name).segment, uri=uri)
        else:
            reference.rewind(name, what)
            entry = rewind_entry(seq, what, segment=reference.place(name).segment)
        assert await self.live.metrics.append(writer, entry) == Appended(seq)

    async def attempt(self, resume_step: int | None, ops: list[tuple[str, str, int | list[int]]]) -> None:
        grant = await self.grant(resume_step)
        await self.write(grant.fence, 0, ops)

    async def late(self, attempt: int, ops: list[tuple[str, str, int | list[int]]]) -> None:
        """Bring in what an ended attempt could not deliver."""
        nonce = f"late{next(self.values)}"
        grant = await self.live.leases.acquire(
            Acquisition(self.project, "r", "r", ResumeMode.MUST, nonce, TTL_US, HOLDER, sync=True)
        )
        assert grant.next_step == self.reference.next_step()
        self.reference.writing = attempt
        await self.write(grant.fence, attempt, ops)
        self.reference.writing = self.reference.attempt

    async def write(self, fence: int, late: int, ops: list[tuple[str, str, int | list[int]]]) -> None:
        sessions: dict[str, Writer] = {}
        for kind, name, what in ops:
            if kind == "archive":
                await self.archive()
                await self.compare()
                continue
            if kind == "reopen" or name not in sessions:
                session = f"s{next(self.values)}"
                writer = writer_of(self.project, fence, name=name, session=session)
                sessions[name] = replace(writer, attempt=late)
                await self.open(sessions[name])
            if kind != "reopen":
                await self.op(sessions[name], kind, what)
        await self.live.leases.release(self.project, "r", fence, RunState.CRASHED)

    async def compare(self) -> None:
        reference = self.reference
        snapshot = await self.live.runs.get_run(self.project, "r", "r")
        found = sorted((c.step, c.fence, c.uri, not c.superseded) for c in snapshot.run.checkpoints)
        assert found == reference.checkpoints()
        assert snapshot.run.next_step == reference.next_step()
        assert snapshot.run.points == len(reference.points)
        for writer in WRITERS:
            await self.compare_history(writer)

    async def archive(self) -> None:
        while await self.live.compactor.compact(self.project, "r"):
            self.parts += 1

    async def read(self, writer: str, **more: Any) -> list[tuple[str, int, float, int, bool]]:
        query = Query(frozenset((writer,)), **more)
        return points_of(await self.live.read_history(self.project, "r", query))

    async def compare_history(self, writer: str) -> None:
        everything = self.reference.history(writer)
        visible = [point for point in everything if not point[4]]
        assert await self.read(writer, superseded=True) == everything
        assert await self.read(writer) == visible
        assert sorted(await self.read(writer, after=LOG_START)) == visible  # in the order of the log
        thinned = await self.read(writer, max_points=4)
        assert set(thinned) <= set(visible)
        assert thinned == sorted(thinned)
        for key in KEYS:
            kept, all_of_key = ([point for point in points if point[0] == key] for points in (thinned, visible))
            if len(all_of_key) <= 4:
                assert kept == all_of_key
            else:
                assert len(kept) <= 4
                assert (kept[0], kept[-1]) == (all_of_key[0], all_of_key[-1])


@settings(max_examples=int(os.environ.get("RUNLEASE_TEST_HISTORIES", "250")), deadline=None, print_blob=True)
@given(ATTEMPTS, LATE)
@example([(None, [("log", "main", list(range(13)))]), (5, [("rewind", "main", 9)]), (None, [])], [])
@example([(None, [("commit", "main", 5), ("log", "main", [6, 7])]), (None, [("log", "rank1", [0])]), (None, [])], [])
@example(
    [(None, [("log", "main", [5])]), (9, [("log", "rank1", [9]), ("rewind", "main", 2), ("rewind", "main", 8)])], []
)
@example([(None, [("commit", "main", 9)]), (3, [("commit", "rank1", 9), ("rewind", "rank1", 0)]), (None, [])], [])
@example(
    [(None, [("log", "main", [0, 1, 2]), ("archive", "main", 0), ("rewind", "main", 1), ("archive", "main", 0)])], []
)
# A log that is archived in the middle of an attempt, then superseded from the part that is hot.
@example(
    [(None, [("log", "main", list(range(9))), ("archive", "main", 0), ("rewind", "main", 4), ("log", "main", [4])])],
    [],
)
# An attempt that begins to count late, one whose rewind comes late, and a checkpoint behind which the run went on.
@example(
    [(None, [("log", "main", [0, 1, 2, 3])]), (2, []), (3, [("log", "main", [3]), ("archive", "main", 0)])],
    [(2, 3, [("log", "main", [2, 5])]), (1, 3, [("commit", "main", 1), ("rewind", "main", 1), ("log", "main", [1])])],
)
def test_random_histories(live: LiveStore, history: History, late: Late) -> None:
    driver = Driver(live)
    storage: list[str] = []

    async def drive() -> None:
        for resume_step, ops in history:
            await driver.attempt(resume_step, ops)
            await driver.compare()
            for attempt, when, brought in late:
                if when == driver.reference.attempt and attempt <= when:
                    await driver.late(attempt, brought)
                    await driver.compare()

        storage.append("hot" if not driver.parts else "mixed" if await hot(driver) else "archived")
        await driver.archive()
        assert not await hot(driver)
        await driver.compare()

    live.run(drive())
    everything = [point for writer in WRITERS for point in driver.reference.history(writer)]
    event("points are hidden" if any(point[4] for point in everything) else "no point is hidden")
    event(f"storage: {storage[0]}")
    event(f"parts in the archive: {driver.parts}")
    event(f"attempts: {driver.reference.attempt}")


async def hot(driver: Driver) -> list[object]:
    """What the store still holds of the log."""
    entries: list[object] = await driver.live.store.reads.call("XRANGE", run_keys(driver.project, "r").log, "-", "+")
    return entries
