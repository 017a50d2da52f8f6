"""A run's history by the text of the visibility rule: keeps everything, and looks at all of it.

It only ever appends to lists; the scripts keep counters, flags and sets, and know nothing of storage either. What a
sync brings in late counts by its attempt, not by when it came.
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


class Committed(NamedTuple):
    """A checkpoint; `of_main` is the segment of `main` then, `hidden` whether it was superseded before it came."""

    attempt: int
    moment: int
    segment: int
    step: int
    of_main: int
    uri: str
    late: bool
    hidden: bool


@dataclass
class Reference:
    """All that ever happened, each with its moment: a position in the one order of accepted entries."""

    moment: int = 0
    attempt: int = 0
    fences: dict[int, int] = field(default_factory=dict)
    segments: list[Opened] = field(default_factory=list)
    points: list[Logged] = field(default_factory=list)
    commits: list[Committed] = field(default_factory=list)
    #: Attempt and moment, and how far `main` has come.
    raised: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    #: Of each attempt's writers: last seq, segment, whether it wrote.
    places: dict[tuple[int, str], WriterPosition] = field(default_factory=dict)
    #: The attempt that is written now: the last one, or one that a sync brings in.
    writing: int = 0

    def grant(self, fence: int, start: int) -> None:
        self.attempt += 1
        self.writing = self.attempt
        self.fences[self.attempt] = fence
        self.segments.append(Opened(self.attempt, 0, "", start, math.inf))

    def place(self, writer: str) -> WriterPosition:
        return self.places.get((self.writing, writer), WriterPosition(0, 0, False))

    @property
    def first(self) -> Opened:
        return next(s for s in self.segments if s.attempt == self.writing and s.writer == "")

    def _write(self, writer: str, highest: int) -> None:
        self.moment += 2
        if self.first.counts_from == math.inf:
            self.first.counts_from = self.moment - 1
        place = self.place(writer)
        self.places[self.writing, writer] = WriterPosition(place.seq + 1, place.segment, True)
        if writer == "main":
            self.raised.append(((self.writing, self.moment), highest + 1))

    def log(self, writer: str, rows: list[tuple[int, str, float]]) -> None:
        self._write(writer, max(step for step, _, _ in rows))
        segment = self.place(writer).segment
        self.points += [Logged(self.writing, segment, writer, key, step, value) for step, key, value in rows]

    def commit(self, writer: str, step: int, uri: str, *, late: bool = False) -> None:
        self._write(writer, step)
        of_main, segment = self.place("main").segment, self.place(writer).segment
        one = Committed(self.writing, self.moment, segment, step, of_main, uri, late, False)
        self.commits.append(one._replace(hidden=self._is_hidden(one)))

    def rewind(self, writer: str, step: int) -> None:
        self.moment += 2
        place = self.place(writer)
        segment = place.segment + place.written
        if self.first.counts_from == math.inf:
            self.first.start = step
        else:
            self.segments.append(Opened(self.writing, segment, writer, step, self.moment))
        self.places[self.writing, writer] = WriterPosition(place.seq + 1, segment, place.written)

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

    def _is_hidden(self, one: Committed) -> bool:
        """Whether a later segment supersedes a checkpoint; within an attempt those that began to count after it."""

        def is_later(s: Opened) -> bool:
            if s.attempt != one.attempt:
                return s.attempt > one.attempt
            return s.counts_from > one.moment or (one.late and s.writer == "main" and s.segment > one.segment)

        return any(is_later(s) and s.start <= one.step for s in self._of_run)

    def checkpoints(self) -> list[tuple[int, int, str, bool]]:
        """Step, fence, URI and whether it is visible; within a segment of `main` a repeated commit replaces itself."""
        kept = {(one.step, one.attempt, one.of_main): one for one in self.commits}
        last = {(one.step, one.attempt): one for one in self.commits if not one.hidden}
        return sorted(
            (one.step, self.fences[one.attempt], one.uri, one is last.get(place[:2]) and not self._is_hidden(one))
            for place, one in kept.items()
        )

    def next_step(self) -> int:
        starts: list[tuple[tuple[int, float], int]] = [((s.attempt, s.counts_from), s.start) for s in self._of_run]
        base_at, base = max(starts, default=((0, 0.0), 0))
        return max([base] + [step for at, step in self.raised if at > base_at])

    def start_and_checkpoint(self, resume_step: int | None) -> tuple[int, tuple[int, int, str] | None]:
        shown = [(step, fence, uri) for step, fence, uri, visible in self.checkpoints() if visible]
        top = max(shown, default=None)
        start = resume_step if resume_step is not None else top[0] + 1 if top else self.next_step()
        return start, max((place for place in shown if place[0] < start), default=None)
