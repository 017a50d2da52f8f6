"""Entries of a writer's log, and the points of a history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Steps and rows stay exact in every double on the way.
MAX_STEP = 2**53 - 2


class EntryKind(StrEnum):
    """What an entry of a writer's log is; the letter is its form in the store."""

    POINTS = "p"
    COMMIT = "c"
    REWIND = "r"
    #: Gone for good, it and those before it that never came: uses up their seqs.
    LOST = "l"
    #: How an ended attempt really ended.
    END = "e"
    #: Refused before the store saw it: uses up its seq, stores nothing.
    VOID = "x"


@dataclass(frozen=True, slots=True)
class Writer:
    """One session of a writer under a fence.

    ``attempt``: the ended one that it brings entries of (0: the fence's); ``attempt_fence``: its own (0: not known).
    """

    project: str
    canonical_id: str
    fence: int
    name: str
    session: str
    attempt: int = 0
    attempt_fence: int = 0


@dataclass(frozen=True, slots=True)
class WriterPosition:
    """Where a writer goes on: the last accepted seq, its segment, whether it has written in this attempt.

    ``fence`` is that of the attempt, which its checkpoints bear.
    """

    seq: int
    segment: int
    written: bool
    fence: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``step`` is the highest step of points, the step of a commit or rewind, how many are lost."""

    seq: int
    segment: int
    kind: EntryKind
    payload: bytes
    points: int
    step: int
    #: A commit waits behind these points: they are taken in beyond the rate limits, and charged afterwards.
    barrier: bool = False
    #: Names of metrics that the run may not have yet.
    names: Sequence[str] = ()


class LogPosition(NamedTuple):
    """An entry's place in its run's log: positions ascend in the order in which entries came in."""

    fence: int
    number: int

    @classmethod
    def parse(cls, text: str) -> LogPosition:
        """Read ``FENCE-NUMBER``, as the store writes it; an empty text is the start of the log.

        Raises:
            ValueError: it is something else.
        """
        if not text:
            return LOG_START
        numbers = _POSITION.fullmatch(text)
        found = cls(*map(int, numbers.groups())) if numbers else LOG_START
        if not numbers or max(found) > _LARGEST_NUMBER:
            raise ValueError(f"no position of a log: {text[:64]!r}")
        return found

    def __str__(self) -> str:
        """Return ``FENCE-NUMBER``."""
        return f"{self.fence}-{self.number}"


#: Before the first entry of every log.
LOG_START = LogPosition(0, 0)
_POSITION = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
#: Of the store's stream IDs.
_LARGEST_NUMBER = 2**64 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Points of one (writer, key) that one segment logged: equally long columns, in the order logged."""

    attempt: int
    segment: int
    writer: str
    key: str
    steps: Ints
    #: UNIX seconds, whole microseconds.
    times: Floats
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Points of one (writer, key), ascending by step; columns of equal length."""

    key: str
    writer: str
    steps: Ints
    values: Floats
    #: UNIX seconds, whole microseconds.
    times: Floats
    attempts: npt.NDArray[np.uint32]
    #: Whether default views hide each point; None unless hidden ones were asked for.
    superseded: Flags | None = None
    #: Of a downsampled series: whether each point's bucket also holds a NaN that is not shown.
    nan_in_bucket: Flags | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.steps)

    def take(self, rows: slice | npt.NDArray[np.intp] | Flags) -> Series:
        """Return some of the points, in their order."""
        return Series(
            self.key,
            self.writer,
            self.steps[rows],
            self.values[rows],
            self.times[rows],
            self.attempts[rows],
            None if self.superseded is None else self.superseded[rows],
            None if self.nan_in_bucket is None else self.nan_in_bucket[rows],
        )
