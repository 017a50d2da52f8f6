"""The visibility rule in its plain form, one point at a time: the reference of the fast implementation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.runs import Segment


class Point(NamedTuple):
    """One logged point; ``seq`` is its entry's place in its writer's log of that attempt, ``row`` its place there."""

    attempt: int
    segment: int
    seq: int
    row: int
    writer: str
    key: str
    step: int
    value: float

    @property
    def order(self) -> tuple[int, int, int, int]:
        return self[:4]


#: A series' points by (writer, key, step).
Shown = dict[tuple[str, str, int], Point]


def visible(
    points: Iterable[Point],
    segments: Iterable[Segment],
    inherited: Mapping[tuple[str, str, int], Point] | None = None,
    spared_by: Iterable[Segment] = (),
) -> Shown:
    """Return the visible points, over those of a parent (what it shows up to the fork)."""
    counting = [segment for segment in segments if segment.counts]
    spared = set(spared_by)
    shown = {
        place: point
        for place, point in (inherited or {}).items()
        if not any(s.start <= point.step for s in counting if s not in spared and s.writer in ("", point.writer))
    }
    own: Shown = {}
    for point in points:
        later = [s for s in counting if s.order > (point.attempt, point.segment)]
        place = (point.writer, point.key, point.step)
        if any(s.start <= point.step for s in later if s.writer in ("", point.writer)):
            continue
        if place not in own or point.order > own[place].order:
            own[place] = point
    return shown | own


def batch_of(points: list[Point]) -> Batch:
    """Return points of one entry and key as a batch; times are values + 0.5."""
    first = points[0]
    values = np.array([point.value for point in points])
    steps = np.array([point.step for point in points], np.int64)
    return Batch(first.attempt, first.segment, first.writer, first.key, steps, values + 0.5, values)


def series_of(points: Iterable[Point]) -> Series:
    """Return visible points of one (writer, key) as a series."""
    ordered = sorted(points, key=lambda point: point.step)
    values = np.array([point.value for point in ordered], np.float64)
    return Series(
        ordered[0].key,
        ordered[0].writer,
        np.array([point.step for point in ordered], np.int64),
        values,
        values + 0.5,
        np.array([point.attempt for point in ordered], np.uint32),
    )
