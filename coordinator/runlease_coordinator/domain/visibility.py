"""The visibility rule: which points of a run's history count.

A point is hidden iff a later segment that counts starts at or below its step. Of those left, the latest
(attempt, segment, seq) of a (writer, key, step) wins. Segment 0's start holds for all writers of the attempt; a
later segment only for the writer that opened it.

A run that continues another one shows, below its own points, what that one showed up to the step of the fork. Its own
segments hide them as they hide its own earlier points, but for those that counted before a link.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence

import numpy as np

from runlease_coordinator.domain.metrics import Batch, Flags, Series
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


class View:
    """What a run shows under its segments."""

    def __init__(self, segments: Sequence[Segment], spared_by: Container[Segment] = ()) -> None:
        """Take all segments of the run.

        Args:
            segments: in any order.
            spared_by: those that hide nothing of what the run inherits.
        """
        self._own = Ceilings(segments)
        self._inherited = Ceilings(segment for segment in segments if segment not in spared_by)

    def show(
        self, key: str, writer: str, batches: Iterable[Batch], *, superseded: bool, inherited: Series | None = None
    ) -> Series:
        """Apply the rule to one (writer, key); the points come back ascending by step.

        Args:
            key: of all batches.
            writer: of all batches.
            batches: all points, those of one (attempt, segment) in the order logged; segments may come in any order.
            superseded: also return the points that the rule hides, each step's in the order logged.
            inherited: what the run shows of its parent: older than all of its own.
        """
        ordered = sorted(batches, key=lambda batch: (batch.attempt, batch.segment))
        ceilings = [self._own.of(batch.attempt, batch.segment, writer) for batch in ordered]
        points = _joined(key, writer, ordered, inherited)
        if inherited is not None:
            ceilings.insert(0, self._inherited.of(0, 0, writer))
        lengths = [len(inherited)] if inherited is not None else []
        below = _below(points.steps, ceilings, [*lengths, *(len(batch.steps) for batch in ordered)])
        if superseded:
            return _marked(points, below)
        return _latest(points if below is None else points.take(below))


def visible_in_log_order(key: str, writer: str, batches: Sequence[Batch], segments: Iterable[Segment]) -> Series:
    """Apply the rule to part of a log of one (writer, key), but keep its order; the batches come in it."""
    ceilings = Ceilings(segments)
    points = _joined(key, writer, batches, None)
    lengths = [len(batch.steps) for batch in batches]
    below = _below(points.steps, [ceilings.of(batch.attempt, batch.segment, writer) for batch in batches], lengths)
    # Late entries of ended attempts stand behind what replaced them.
    places = sorted({(batch.attempt, batch.segment) for batch in batches})
    rank = {place: number for number, place in enumerate(places)}
    ranks = np.repeat([rank[batch.attempt, batch.segment] for batch in batches], lengths)
    order = np.lexsort((ranks, points.steps))  # stable: the order logged decides at last
    if below is not None:
        order = order[below[order]]
    return points.take(np.sort(order[_ends_of_runs(points.steps[order])]))


def _joined(key: str, writer: str, batches: Sequence[Batch], inherited: Series | None) -> Series:
    if inherited is not None and not batches:
        return inherited
    attempts = np.repeat(
        np.array([batch.attempt for batch in batches], np.uint32), [len(batch.steps) for batch in batches]
    )
    steps, values, times = (
        [batch.steps for batch in batches],
        [batch.values for batch in batches],
        [batch.times for batch in batches],
    )
    if inherited is not None:
        steps.insert(0, inherited.steps)
        values.insert(0, inherited.values)
        times.insert(0, inherited.times)
        attempts = np.concatenate((inherited.attempts, attempts))
    if not steps:
        empty = np.empty(0)
        return Series(key, writer, empty.astype(np.int64), empty, empty, attempts)
    return Series(key, writer, np.concatenate(steps), np.concatenate(values), np.concatenate(times), attempts)


def _below(steps: np.ndarray, ceilings: Sequence[float], lengths: Sequence[int]) -> Flags | None:
    """Return which rows no later segment hides; None: all of them."""
    if all(ceiling == math.inf for ceiling in ceilings):
        return None
    # Steps are exact in doubles.
    below: Flags = steps < np.repeat(np.array(ceilings, np.float64), lengths)
    return None if below.all() else below


def _latest(points: Series) -> Series:
    """Return the last point of each step, ascending."""
    steps = points.steps
    if (steps[1:] > steps[:-1]).all():  # the rule, not the exception: nothing was logged twice or out of order
        return points
    order = np.argsort(steps, kind="stable")
    return points.take(order[_ends_of_runs(steps[order])])


def _marked(points: Series, below: Flags | None) -> Series:
    """Return all points, ascending by step, and which of them are hidden."""
    order = np.argsort(points.steps, kind="stable")
    hidden = np.ones(len(order), np.bool_)
    candidates = order if below is None else order[below[order]]
    hidden[candidates[_ends_of_runs(points.steps[candidates])]] = False
    one = points
    marked = Series(one.key, one.writer, one.steps, one.values, one.times, one.attempts, hidden)
    return marked.take(order)


def _ends_of_runs(ascending: np.ndarray) -> Flags:
    ends = np.ones(len(ascending), np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=ends[:-1])
    return ends
