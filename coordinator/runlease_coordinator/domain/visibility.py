"""The visibility rule (DESIGN section 4): which points of a run's history count.

A point is hidden iff a later segment that counts starts at or below its step. Of those left, the latest
(attempt, segment, seq) of a (writer, key, step) wins. Segment 0's start holds for all writers of the attempt; a
later segment only for the writer that opened it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from runlease_coordinator.domain.metrics import Batch, Series
from runlease_coordinator.domain.runs import Segment


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


def visible_series(batches: Iterable[Batch], segments: Iterable[Segment], *, superseded: bool) -> list[Series]:
    """Apply the rule to batches in the order of their log; returns series by (writer, key), ascending by step.

    Args:
        batches: all points, each writer's in the order of (attempt, segment, seq).
        segments: all segments of the run.
        superseded: also return the points that the rule hides, each step's in the order logged.
    """
    ceilings = Ceilings(segments)
    groups: dict[tuple[str, str], list[Batch]] = {}
    for batch in batches:
        groups.setdefault((batch.writer, batch.key), []).append(batch)
    collect = _all_points if superseded else _visible_points
    return [collect(key, writer, groups[writer, key], ceilings) for writer, key in sorted(groups)]


def _visible_points(key: str, writer: str, batches: Sequence[Batch], ceilings: Ceilings) -> Series:
    latest: dict[int, tuple[float, float, int]] = {}
    for batch in batches:
        ceiling = ceilings.of(batch.attempt, batch.segment, writer)
        rows = zip(batch.steps, batch.values, batch.times, strict=True)
        latest.update((step, (value, time, batch.attempt)) for step, value, time in rows if step < ceiling)
    steps = sorted(latest)
    points = [latest[step] for step in steps]
    return Series(key, writer, steps, [p[0] for p in points], [p[1] for p in points], [p[2] for p in points], [])


def _all_points(key: str, writer: str, batches: Sequence[Batch], ceilings: Ceilings) -> Series:
    rows: list[tuple[int, float, float, int, bool]] = []
    latest: dict[int, int] = {}
    for batch in batches:
        ceiling = ceilings.of(batch.attempt, batch.segment, writer)
        for step, value, time in zip(batch.steps, batch.values, batch.times, strict=True):
            if step < ceiling:
                latest[step] = len(rows)
            rows.append((step, value, time, batch.attempt, True))
    for row in latest.values():
        rows[row] = (*rows[row][:4], False)
    rows.sort(key=lambda point: point[0])  # stable: each step's points stay in the order logged
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], [], []]
    steps, values, times, attempts, hidden = columns
    return Series(key, writer, steps, values, times, attempts, hidden)
