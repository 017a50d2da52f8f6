"""The visibility rule (DESIGN section 4): which points of a run's history count.

A point is hidden iff a later segment that counts starts at or below its step. Of those left, the latest
(attempt, segment, seq) of a (writer, key, step) wins. Segment 0's start holds for all writers of the attempt; a
later segment only for the writer that opened it.

A run that continues another one shows, below its own points, what that one showed up to the step of the fork. Its own
segments hide them as they hide its own earlier points, but for those that counted before a link.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import repeat

from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.runs import Segment

#: The step from which on rows are hidden, and the rows: step, value, time, attempt.
_Layer = tuple[float, Iterator[tuple[int, float, float, int]]]


class Ceilings:
    """For each place in the log: the step from which on its points are hidden."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        """Take the run's segments, in any order; those that do not count hide nothing."""
        self._counting = [segment for segment in segments if segment.counts]
        self._known: dict[tuple[int, int, str], float] = {}

    def of(self, attempt: int, segment: int, writer: str) -> float:
        """Return the lowest step that a later segment replaces (infinity: none)."""
        place = (attempt, segment, writer)
        ceiling = self._known.get(place)
        if ceiling is None:
            ceiling = self._known[place] = min(
                (s.start for s in self._counting if s.order > (attempt, segment) and s.writer in ("", writer)),
                default=math.inf,
            )
        return ceiling


def visible_series(
    batches: Iterable[Batch],
    segments: Sequence[Segment],
    *,
    superseded: bool,
    inherited: Iterable[Series] = (),
    spared_by: Container[Segment] = (),
) -> list[Series]:
    """Apply the rule to batches in the order of their log; returns series by (writer, key), ascending by step.

    Args:
        batches: all points, each writer's in the order of (attempt, segment, seq).
        segments: all segments of the run.
        superseded: also return the points that the rule hides, each step's in the order logged.
        inherited: what the run shows of its parent: older than all of its own.
        spared_by: the segments that hide nothing of it.
    """
    ceilings = Ceilings(segments)
    groups: dict[tuple[str, str], list[_Layer]] = {}
    above = Ceilings(segment for segment in segments if segment not in spared_by)
    for one in inherited:
        rows = zip(one.steps, one.values, one.times, one.attempts, strict=True)
        groups.setdefault((one.writer, one.key), []).append((above.of(0, 0, one.writer), rows))
    for batch in batches:
        ceiling = ceilings.of(batch.attempt, batch.segment, batch.writer)
        attempts = repeat(batch.attempt, len(batch.steps))
        rows = zip(batch.steps, batch.values, batch.times, attempts, strict=True)
        groups.setdefault((batch.writer, batch.key), []).append((ceiling, rows))
    collect = _all_points if superseded else _visible_points
    return [collect(key, writer, groups[writer, key]) for writer, key in sorted(groups)]


def _visible_points(key: str, writer: str, layers: Sequence[_Layer]) -> Series:
    latest: dict[int, tuple[float, float, int]] = {}
    for ceiling, rows in layers:
        latest.update((step, (value, time, attempt)) for step, value, time, attempt in rows if step < ceiling)
    steps = sorted(latest)
    points = [latest[step] for step in steps]
    return Series(key, writer, steps, [p[0] for p in points], [p[1] for p in points], [p[2] for p in points], [])


def _all_points(key: str, writer: str, layers: Sequence[_Layer]) -> Series:
    points: list[tuple[int, float, float, int, bool]] = []
    latest: dict[int, int] = {}
    for ceiling, rows in layers:
        for step, value, time, attempt in rows:
            if step < ceiling:
                latest[step] = len(points)
            points.append((step, value, time, attempt, True))
    for place in latest.values():
        points[place] = (*points[place][:4], False)
    points.sort(key=lambda point: point[0])  # stable: each step's points stay in the order logged
    columns = [list(column) for column in zip(*points, strict=True)] if points else [[], [], [], [], []]
    steps, values, times, attempts, hidden = columns
    return Series(key, writer, steps, values, times, attempts, hidden)
