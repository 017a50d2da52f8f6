"""The visibility rule over random logs, against a reference written straight from its text."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.runs import Segment
from runlease_coordinator.domain.visibility import Ceilings, visible_series

WRITERS = ("main", "rank1")
KEYS = ("loss", "acc")


class Point(NamedTuple):
    """One logged point; ``seq`` is its place in its writer's log."""

    attempt: int
    segment: int
    seq: int
    writer: str
    key: str
    step: int
    value: float


def reference(points: list[Point], segments: list[Segment]) -> dict[tuple[str, str, int], Point]:
    """Apply the rule as DESIGN section 4 says it, one point at a time."""
    visible: dict[tuple[str, str, int], Point] = {}
    for point in points:
        later = [s for s in segments if (s.attempt, s.segment) > (point.attempt, point.segment) and s.counts]
        if any(s.start <= point.step for s in later if s.writer in ("", point.writer)):
            continue
        place = (point.writer, point.key, point.step)
        if place not in visible or point[:3] >= visible[place][:3]:
            visible[place] = point
    return visible


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Batch], list[Segment], list[Point]]:
    """Random attempts with segments of both scopes, and batches in the order of their log."""
    steps = st.integers(0, 12)
    batches: list[Batch] = []
    segments: list[Segment] = []
    points: list[Point] = []
    seq = 0
    for attempt in range(1, draw(st.integers(1, 4)) + 1):
        segments.append(Segment(attempt, 0, "", draw(steps), draw(st.booleans())))
        current = dict.fromkeys(WRITERS, 0)
        for _ in range(draw(st.integers(0, 6))):
            writer = draw(st.sampled_from(WRITERS))
            seq += 1
            if draw(st.integers(0, 3)) == 0:
                # Before its own first write a writer's rewind may share number 0 with the attempt's start.
                current[writer] += draw(st.integers(0, 1))
                segments.append(Segment(attempt, current[writer], writer, draw(steps), True))
                continue
            rows = draw(st.lists(steps, min_size=1, max_size=4))
            for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, unique=True)):
                values = [float(len(points) + i) for i in range(len(rows))]
                times = [value + 0.5 for value in values]
                batches.append(Batch(attempt, current[writer], writer, key, rows, times, values))
                points += [
                    Point(attempt, current[writer], seq, writer, key, step, value)
                    for step, value in zip(rows, values, strict=True)
                ]
    return batches, draw(st.permutations(segments)), points


def rows(series: list[Series]) -> list[tuple[str, str, int, float, float, int]]:
    return [
        (one.writer, one.key, *row)
        for one in series
        for row in zip(one.steps, one.values, one.times, one.attempts, strict=True)
    ]


@settings(max_examples=400, deadline=None, print_blob=True)
@given(logs())
def test_what_is_visible(log: tuple[list[Batch], list[Segment], list[Point]]) -> None:
    batches, segments, points = log
    expected = reference(points, segments)
    event("something is hidden" if len(expected) < len({p[3:6] for p in points}) else "nothing is hidden")
    series = visible_series(batches, segments, superseded=False)
    assert rows(series) == [
        (*place, point.value, point.value + 0.5, point.attempt) for place, point in sorted(expected.items())
    ]
    assert all(one.superseded == [] for one in series)


@settings(max_examples=400, deadline=None, print_blob=True)
@given(logs())
def test_nothing_is_deleted(log: tuple[list[Batch], list[Segment], list[Point]]) -> None:
    batches, segments, points = log
    expected = reference(points, segments)
    series = visible_series(batches, segments, superseded=True)
    # Every point ever logged, by step, each step's in the order logged (the values count up).
    in_order = sorted(points, key=lambda point: (point.writer, point.key, point.step, point.value))
    assert rows(series) == [(*p[3:6], p.value, p.value + 0.5, p.attempt) for p in in_order]
    shown = {
        (one.writer, one.key, value)
        for one in series
        for value, hidden in zip(one.values, one.superseded, strict=True)
        if not hidden
    }
    assert shown == {(point.writer, point.key, point.value) for point in expected.values()}


def test_the_example_of_the_design() -> None:
    # Given 0..100, a rewind to 50 after that, then a log to 60: the curve is 0..49 of old and 50..60 of new.
    old = Batch(1, 0, "main", "loss", list(range(101)), [0.0] * 101, [1.0] * 101)
    new = Batch(1, 1, "main", "loss", list(range(50, 61)), [0.0] * 11, [2.0] * 11)
    segments = [Segment(1, 0, "", 0, True), Segment(1, 1, "main", 50, True)]
    (series,) = visible_series([old, new], segments, superseded=False)
    assert series.steps == list(range(61))
    assert series.values == [1.0] * 50 + [2.0] * 11


def test_a_grant_alone_hides_nothing() -> None:
    batch = Batch(1, 0, "main", "loss", [0, 1, 2], [0.0] * 3, [1.0, 2.0, 3.0])
    segments = [Segment(1, 0, "", 0, True), Segment(2, 0, "", 0, counts=False)]
    (series,) = visible_series([batch], segments, superseded=False)
    assert series.steps == [0, 1, 2]


@pytest.mark.parametrize(("writer", "steps"), [("main", [0, 1]), ("rank1", [0, 1, 2, 3])])
def test_a_rewind_is_its_writers_own(writer: str, steps: list[int]) -> None:
    batch = Batch(1, 0, writer, "loss", [0, 1, 2, 3], [0.0] * 4, [0.0] * 4)
    segments = [Segment(1, 0, "", 0, True), Segment(1, 1, "main", 2, True)]
    (series,) = visible_series([batch], segments, superseded=False)
    assert series.steps == steps


def test_no_segment_hides_its_own_points() -> None:
    # A stray step below the start stays: steps logged never move a start.
    ceilings = Ceilings([Segment(1, 0, "", 5, True)])
    assert ceilings.of(1, 0, "main") == math.inf
    assert ceilings.of(0, 9, "main") == 5


def inherited(steps: list[int], attempt: int = 7) -> Series:
    values = [float(-step) for step in steps]
    return Series("loss", "main", steps, values, [1.0] * len(steps), [attempt] * len(steps), [])


def test_inherited_points_lie_below_a_run_s_own() -> None:
    own = Batch(1, 0, "main", "loss", [2, 3], [0.0] * 2, [2.0, 3.0])
    start = Segment(1, 0, "", 3, True)
    (series,) = visible_series([own], [start], superseded=False, inherited=[inherited([0, 1, 2])])
    assert (series.steps, series.values, series.attempts) == ([0, 1, 2, 3], [-0.0, -1.0, 2.0, 3.0], [7, 7, 1, 1])


@pytest.mark.parametrize(("spared", "steps"), [(False, [0]), (True, [0, 1, 2, 3])])
def test_segments_hide_inherited_points_unless_they_counted_before_a_link(spared: bool, steps: list[int]) -> None:
    segment = Segment(1, 0, "", 1, True)
    spared_by = frozenset((segment,)) if spared else frozenset()
    parent = [inherited([0, 1, 2, 3])]
    (series,) = visible_series([], [segment], superseded=False, inherited=parent, spared_by=spared_by)
    assert series.steps == steps
    (all_of_it,) = visible_series([], [segment], superseded=True, inherited=parent, spared_by=spared_by)
    assert all_of_it.superseded == [step not in steps for step in range(4)]
