"""The visibility rule over random logs, against a reference written straight from its text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.runs import Segment
from runlease_coordinator.domain.visibility import Ceilings, View, visible_in_log_order

from tests.support.visibility import Point, batch_of, series_of, visible

WRITERS = ("main", "rank1")
KEYS = ("loss", "acc")
STEPS = st.integers(0, 12)


class Log(NamedTuple):
    """Entries in the order in which they came in: spooled ones of ended attempts come late."""

    entries: list[list[Point]]
    segments: list[Segment]

    @property
    def points(self) -> list[Point]:
        return [point for entry in self.entries for point in entry]

    def batches(self, writer: str, key: str) -> list[Batch]:
        return [batch_of(e) for e in self.entries if (e[0].writer, e[0].key) == (writer, key)]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Random attempts with segments of both scopes, and what the writers logged."""
    segments: list[Segment] = []
    streams: list[list[list[Point]]] = []  # of each attempt, and of those each part that came in at once
    values = map(float, itertools.count())
    for attempt in range(1, draw(st.integers(1, 4)) + 1):
        segments.append(Segment(attempt, 0, "", draw(STEPS), draw(st.booleans())))
        current = dict.fromkeys(WRITERS, 0)
        entries: list[list[Point]] = []
        for seq in range(draw(st.integers(0, 6))):
            writer = draw(st.sampled_from(WRITERS))
            if draw(st.integers(0, 3)) == 0:
                # Before its own first write a writer's rewind may share number 0 with the attempt's start.
                current[writer] += draw(st.integers(0, 1))
                segments.append(Segment(attempt, current[writer], writer, draw(STEPS), True))
                continue
            rows = draw(st.one_of(st.lists(STEPS, min_size=1, max_size=4), st.sampled_from([[3, 4, 5], [6, 7]])))
            for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, unique=True)):
                entries.append([
                    Point(attempt, current[writer], seq, row, writer, key, step, next(values))
                    for row, step in enumerate(rows)
                ])  # fmt: skip
        cut = draw(st.integers(0, len(entries)))
        streams += [entries[:cut], entries[cut:]]
    # What stayed in a spool comes in behind any later attempt.
    in_time, late = streams[::2], draw(st.permutations(streams[1::2]))
    entries = [entry for stream in (*in_time, *late) for entry in stream]
    return Log(entries, draw(st.permutations(segments)))


def rows(series: Series) -> list[tuple[str, str, int, float, float, int]]:
    columns = (series.steps, series.values, series.times, series.attempts)
    return [(series.writer, series.key, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def expected_rows(points: Sequence[Point]) -> list[tuple[str, str, int, float, float, int]]:
    return [(p.writer, p.key, p.step, p.value, p.value + 0.5, p.attempt) for p in points]


def show(log: Log, *, superseded: bool = False) -> list[Series]:
    view = View(log.segments)
    pairs = itertools.product(WRITERS, KEYS)
    return [view.show(key, writer, log.batches(writer, key), superseded=superseded) for writer, key in pairs]


def of(points: dict[tuple[str, str, int], Point], writer: str, key: str) -> list[Point]:
    return [point for place, point in sorted(points.items()) if place[:2] == (writer, key)]


@settings(max_examples=400, deadline=None, print_blob=True)
@given(logs())
def test_what_is_visible(log: Log) -> None:
    expected = visible(log.points, log.segments)
    event("something is hidden" if len(expected) < len({p[4:7] for p in log.points}) else "nothing is hidden")
    event("late entries" if log.points != sorted(log.points, key=lambda p: p.attempt) else "all in time")
    for series in show(log):
        assert rows(series) == expected_rows(of(expected, series.writer, series.key))
        assert series.superseded is None


@settings(max_examples=400, deadline=None, print_blob=True)
@given(logs())
def test_nothing_is_deleted(log: Log) -> None:
    expected = visible(log.points, log.segments)
    for series in show(log, superseded=True):
        # Every point ever logged, by step, each step's in the order of (attempt, segment, seq).
        own = [point for point in log.points if (point.writer, point.key) == (series.writer, series.key)]
        assert rows(series) == expected_rows(sorted(own, key=lambda point: (point.step, point.order)))
        assert series.superseded is not None
        shown = [point.value for point in of(expected, series.writer, series.key)]
        assert series.values[~series.superseded].tolist() == shown


@settings(max_examples=200, deadline=None, print_blob=True)
@given(logs(), st.data())
def test_over_a_parent(log: Log, data: st.DataObject) -> None:
    parent = data.draw(logs(), "parent")
    upto = data.draw(STEPS, "up to")
    spared = frozenset(data.draw(st.lists(st.sampled_from(log.segments)), "spared by"))
    inherited = {place: p for place, p in visible(parent.points, parent.segments).items() if p.step <= upto}
    expected = visible(log.points, log.segments, inherited, spared)
    view = View(log.segments, spared)
    for writer, key in itertools.product(WRITERS, KEYS):
        below = of(inherited, writer, key)
        older = series_of(below) if below else None
        batches = log.batches(writer, key)
        series = view.show(key, writer, batches, superseded=False, inherited=older)
        assert rows(series) == expected_rows(of(expected, writer, key))
        everything = view.show(key, writer, batches, superseded=True, inherited=older)
        assert everything.superseded is not None
        assert rows(everything.take(~everything.superseded)) == rows(series)
        assert len(everything) == len(below) + sum(len(batch.steps) for batch in batches)


@settings(max_examples=200, deadline=None, print_blob=True)
@given(logs())
def test_the_order_of_the_log(log: Log) -> None:
    expected = visible(log.points, log.segments)
    for writer, key in itertools.product(WRITERS, KEYS):
        shown = set(of(expected, writer, key))
        in_order = [p for p in log.points if (p.writer, p.key) == (writer, key) and p in shown]
        series = visible_in_log_order(key, writer, log.batches(writer, key), log.segments)
        assert rows(series) == expected_rows(in_order)


def batch(attempt: int, segment: int, steps: Sequence[int], value: float = 0.0, writer: str = "main") -> Batch:
    columns = np.zeros(len(steps)), np.full(len(steps), value)
    return Batch(attempt, segment, writer, "loss", np.array(steps, np.int64), *columns)


def test_the_example_of_the_design() -> None:
    # Given 0..100, a rewind to 50 after that, then a log to 60: the curve is 0..49 of old and 50..60 of new.
    old, new = batch(1, 0, range(101), 1.0), batch(1, 1, range(50, 61), 2.0)
    segments = [Segment(1, 0, "", 0, True), Segment(1, 1, "main", 50, True)]
    series = View(segments).show("loss", "main", [old, new], superseded=False)
    assert series.steps.tolist() == list(range(61))
    assert series.values.tolist() == [1.0] * 50 + [2.0] * 11


def test_a_grant_alone_hides_nothing() -> None:
    segments = [Segment(1, 0, "", 0, True), Segment(2, 0, "", 0, counts=False)]
    series = View(segments).show("loss", "main", [batch(1, 0, [0, 1, 2])], superseded=False)
    assert series.steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("writer", "steps"), [("main", [0, 1]), ("rank1", [0, 1, 2, 3])])
def test_a_rewind_is_its_writers_own(writer: str, steps: list[int]) -> None:
    segments = [Segment(1, 0, "", 0, True), Segment(1, 1, "main", 2, True)]
    series = View(segments).show("loss", writer, [batch(1, 0, range(4), writer=writer)], superseded=False)
    assert series.steps.tolist() == steps


def test_no_segment_hides_its_own_points() -> None:
    # A stray step below the start stays: steps logged never move a start.
    ceilings = Ceilings([Segment(1, 0, "", 5, True)])
    assert ceilings.of(1, 0, "main") == math.inf
    assert ceilings.of(0, 9, "main") == 5


def test_the_largest_steps_are_told_apart() -> None:
    top = 2**53 - 2
    segments = [Segment(1, 0, "", 0, True), Segment(2, 0, "", top, True)]
    series = View(segments).show("loss", "main", [batch(1, 0, [top - 1, top])], superseded=True)
    assert series.superseded is not None
    assert series.superseded.tolist() == [False, True]


def inherited(steps: list[int], attempt: int = 7) -> Series:
    values = -np.array(steps, np.float64)
    attempts = np.full(len(steps), attempt, np.uint32)
    return Series("loss", "main", np.array(steps, np.int64), values, np.ones(len(steps)), attempts)


def test_inherited_points_lie_below_a_run_s_own() -> None:
    own, start = batch(1, 0, [2, 3], 2.0), Segment(1, 0, "", 3, True)
    series = View([start]).show("loss", "main", [own], superseded=False, inherited=inherited([0, 1, 2]))
    assert series.steps.tolist() == [0, 1, 2, 3]
    assert series.values.tolist() == [-0.0, -1.0, 2.0, 2.0]
    assert series.attempts.tolist() == [7, 7, 1, 1]


@pytest.mark.parametrize(("spared", "steps"), [(False, [0]), (True, [0, 1, 2, 3])])
def test_segments_hide_inherited_points_unless_they_counted_before_a_link(spared: bool, steps: list[int]) -> None:
    segment = Segment(1, 0, "", 1, True)
    view = View([segment], frozenset((segment,)) if spared else frozenset())
    parent = inherited([0, 1, 2, 3])
    assert view.show("loss", "main", [], superseded=False, inherited=parent).steps.tolist() == steps
    all_of_it = view.show("loss", "main", [], superseded=True, inherited=parent)
    assert all_of_it.superseded is not None
    assert all_of_it.superseded.tolist() == [step not in steps for step in range(4)]
