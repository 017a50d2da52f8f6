"""A run's history by the text of the visibility rule (DESIGN section 4): keeps everything, and looks at all of it.

It only ever appends to lists; the scripts keep counters, flags and sets, and know nothing of storage either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from runlease_coordinator.domain.metrics import WriterPosition


@dataclass
class Opened:
    """A segment, and the moment from which on it counts (infinity: not yet)."""

    attempt: int
    segment: int
    writer: str
    start: int
    counts_from: float


class Logged(NamedTuple):
    """A point; of one attempt, segment and writer they are kept in the order logged."""

    attempt: int
    segment: int
    writer: str
    key: str
    step: int
    value: float


@dataclass
class Reference:
    """All that ever happened, each with its moment: a position in the one order of accepted entries."""

    moment: int = 0
    attempt: int = 0
    fences: dict[int, int] = field(default_factory=dict)
    segments: list[Opened] = field(default_factory=list)
    points: list[Logged] = field(default_factory=list)
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

    def log(self, writer: str, rows: list[tuple[int, str, float]]) -> None:
        self._write(writer, max(step for step, _, _ in rows))
        segment = self.place(writer).segment
        self.points += [Logged(self.attempt, segment, writer, key, step, value) for step, key, value in rows]

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

    def history(self, writer: str) -> list[tuple[str, int, float, int, bool]]:
        """(key, step, value, attempt, hidden) of all points by key, then step, then as logged."""
        ordered = sorted((p for p in self.points if p.writer == writer), key=lambda p: (p.attempt, p.segment))
        latest: dict[tuple[str, int], int] = {}
        for place, point in enumerate(ordered):
            later = [s for s in self.segments if (s.attempt, s.segment) > point[:2] and s.writer in ("", writer)]
            if not any(s.start <= point.step for s in later if s.counts_from < math.inf):
                latest[point.key, point.step] = place
        shown = set(latest.values())
        every = [(p.key, p.step, p.value, p.attempt, place not in shown) for place, p in enumerate(ordered)]
        return sorted(every, key=lambda point: point[:2])

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
