"""Random histories through the real scripts on a real store, against a short reference that keeps everything.

The reference only ever appends to lists and reads them by the rule's text; the scripts keep counters, flags and sets.
Now and then the log so far is archived: hot, archived and mixed histories are the same.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.leases import Acquisition, Grant, ResumeMode
from runlease_coordinator.domain.metrics import Writer, WriterPosition
from runlease_coordinator.domain.runs import RunState
from runlease_coordinator.history.reads import Query
from runlease_coordinator.store.metrics import Appended

from tests.support.stores import (
    HOLDER,
    TTL_US,
    LiveStore,
    commit_entry,
    points_entry,
    rewind_entry,
    writer_of,
)

WRITERS = ("main", "rank1")
_numbers = itertools.count()


@dataclass
class Opened:
    """A segment, and the moment from which on it counts (infinity: not yet)."""

    attempt: int
    segment: int
    writer: str
    start: int
    counts_from: float


@dataclass
class Reference:
    """All that ever happened, each with its moment: a position in the one order of accepted entries."""

    moment: int = 0
    attempt: int = 0
    fences: dict[int, int] = field(default_factory=dict)
    segments: list[Opened] = field(default_factory=list)
    points: list[tuple[int, int, int, str, int, float]] = field(default_factory=list)
    commits: list[tuple[int, int, int, str]] = field(default_factory=list)
    raised: list[tuple[int, int]] = field(default_factory=list)
    #: Of each writer in this attempt: last seq, segment, whether it wrote.
    places: dict[str, WriterPosition] = field(default_factory=dict)

    def grant(self, fence: int, start: int) -> None:
        self.attempt += 1
        self.fences[self.attempt] = fence
        self.places = {}
        self.segments.append(Opened(self.attempt, 0, "", start, math.inf))

    def place(self, writer: str) -> WriterPosition:
        return self.places.get(writer, WriterPosition(0, 0, False))

    @property
    def first(self) -> Opened:
        return next(s for s in self.segments if s.attempt == self.attempt and s.writer == "")

    def _write(self, writer: str, highest: int) -> None:
        self.moment += 2
        if self.first.counts_from == math.inf:
            self.first.counts_from = self.moment - 1
        place = self.place(writer)
        self.places[writer] = WriterPosition(place.seq + 1, place.segment, True)
        if writer == "main":
            self.raised.append((self.moment, highest + 1))

    def log(self, writer: str, rows: list[tuple[int, float]]) -> None:
        self._write(writer, max(step for step, _ in rows))
        segment = self.place(writer).segment
        self.points += [(self.attempt, segment, self.moment, writer, step, value) for step, value in rows]

    def commit(self, writer: str, step: int, uri: str) -> None:
        self._write(writer, step)
        self.commits.append((self.moment, step, self.fences[self.attempt], uri))

    def rewind(self, writer: str, step: int) -> None:
        self.moment += 2
        place = self.place(writer)
        segment = place.segment + place.written
        if self.first.counts_from == math.inf:
            self.first.start = step
        else:
            self.segments.append(Opened(self.attempt, segment, writer, step, self.moment))
        self.places[writer] = WriterPosition(place.seq + 1, segment, place.written)

    def visible(self, writer: str) -> dict[int, tuple[float, int]]:
        shown: dict[int, tuple[float, int]] = {}
        for attempt, segment, _, by, step, value in self.points:
            later = [s for s in self.segments if (s.attempt, s.segment) > (attempt, segment) and s.writer in ("", by)]
            if by == writer and not any(s.start <= step for s in later if s.counts_from < math.inf):
                shown[step] = (value, attempt)
        return shown

    @property
    def _of_run(self) -> list[Opened]:
        return [s for s in self.segments if s.writer in ("", "main") and s.counts_from < math.inf]

    def checkpoints(self) -> dict[tuple[int, int], tuple[str, bool]]:
        """(step, fence) -> URI and whether it is visible; a commit repeated under one fence replaces itself."""
        return {
            (step, fence): (uri, not any(s.counts_from > moment and s.start <= step for s in self._of_run))
            for moment, step, fence, uri in self.commits
        }

    def next_step(self) -> int:
        starts = [(s.counts_from, s.start) for s in self._of_run]
        base_moment, base = max(starts, default=(0.0, 0))
        return max([base] + [step for moment, step in self.raised if moment > base_moment])

    def start_and_checkpoint(self, resume_step: int | None) -> tuple[int, tuple[int, int] | None]:
        shown = [place for place, (_, visible) in self.checkpoints().items() if visible]
        top = max(shown, default=None)
        start = resume_step if resume_step is not None else top[0] + 1 if top else self.next_step()
        return start, max((place for place in shown if place[0] < start), default=None)


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
History = list[tuple[int | None, list[tuple[str, str, int | list[int]]]]]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveStore]:
    store = LiveStore()
    store.raw.config_set("appendfsync", "no")  # durability has tests of its own
    yield store
    store.close()


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
        shown = grant.checkpoint and (grant.checkpoint.step, grant.checkpoint.fence)
        assert shown == checkpoint
        if grant.checkpoint and checkpoint:
            assert grant.checkpoint.uri == reference.checkpoints()[checkpoint][0]
        reference.grant(grant.fence, start)
        return grant

    async def open(self, writer: Writer) -> None:
        assert await self.live.metrics.open_writer(writer) == self.reference.place(writer.name)

    async def op(self, writer: Writer, kind: str, what: int | list[int]) -> None:
        reference, name = self.reference, writer.name
        seq = reference.place(name).seq + 1
        if isinstance(what, list):
            rows = [(step, float(next(self.values))) for step in what]
            reference.log(name, rows)
            entry = points_entry(seq, rows, segment=reference.place(name).segment)
        elif kind == "commit":
            uri = f"file:///{next(self.values)}"
            reference.commit(name, what, uri)
            entry = commit_entry(seq, what, writer.fence, segment=reference.place(name).segment, uri=uri)
        else:
            reference.rewind(name, what)
            entry = rewind_entry(seq, what, segment=reference.place(name).segment)
        assert await self.live.metrics.append(writer, entry) == Appended(seq)

    async def attempt(self, resume_step: int | None, ops: list[tuple[str, str, int | list[int]]]) -> None:
        grant = await self.grant(resume_step)
        sessions: dict[str, Writer] = {}
        for kind, name, what in ops:
            if kind == "archive":
                self.parts += await self.live.compactor.compact(self.project, "r")
                continue
            if kind == "reopen" or name not in sessions:
                session = f"s{next(self.values)}"
                sessions[name] = writer_of(self.project, grant.fence, name=name, session=session)
                await self.open(sessions[name])
            if kind != "reopen":
                await self.op(sessions[name], kind, what)
        await self.live.leases.release(self.project, "r", grant.fence, RunState.CRASHED)

    async def compare(self) -> None:
        reference = self.reference
        snapshot = await self.live.runs.get_run(self.project, "r", "r")
        found = {(c.step, c.fence): (c.uri, not c.superseded) for c in snapshot.run.checkpoints}
        assert found == reference.checkpoints()
        assert snapshot.run.next_step == reference.next_step()
        assert snapshot.run.points == len(reference.points)
        for writer in WRITERS:
            series = await self.live.read_history(self.project, "r", Query(frozenset((writer,))))
            shown = {
                step: (value, attempt)
                for one in series
                for step, value, attempt in zip(one.steps, one.values, one.attempts, strict=True)
            }
            assert shown == reference.visible(writer)
        series = await self.live.read_history(self.project, "r", Query(frozenset(WRITERS), superseded=True))
        assert sorted(v for one in series for v in one.values) == sorted(point[5] for point in reference.points)


@settings(max_examples=400, deadline=None, print_blob=True)
@given(ATTEMPTS)
@example([(None, [("log", "main", list(range(13)))]), (5, [("rewind", "main", 9)]), (None, [])])
@example([(None, [("commit", "main", 5), ("log", "main", [6, 7])]), (None, [("log", "rank1", [0])]), (None, [])])
@example([(None, [("log", "main", [5])]), (9, [("log", "rank1", [9]), ("rewind", "main", 2), ("rewind", "main", 8)])])
@example([(None, [("commit", "main", 9)]), (3, [("commit", "rank1", 9), ("rewind", "rank1", 0)]), (None, [])])
@example([(None, [("log", "main", [0, 1, 2]), ("archive", "main", 0), ("rewind", "main", 1), ("archive", "main", 0)])])
def test_random_histories(live: LiveStore, history: History) -> None:
    driver = Driver(live)

    async def drive() -> None:
        for resume_step, ops in history:
            await driver.attempt(resume_step, ops)
            await driver.compare()

    live.run(drive())
    points = driver.reference.points
    shown = sum(len(driver.reference.visible(writer)) for writer in WRITERS)
    event("points are hidden" if shown < len({point[3:5] for point in points}) else "no point is hidden")
    event(f"attempts: {driver.reference.attempt}")
    event(f"parts in the archive: {driver.parts}")
