"""Entries of a writer's log, and the points of a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Steps and rows stay exact in every double on the way.
MAX_STEP = 2**53 - 2


class EntryKind(StrEnum):
    """What an entry of a writer's log is; the letter is its form in the store."""

    POINTS = "p"
    COMMIT = "c"
    REWIND = "r"
    #: Refused before the store saw it: uses up its seq, stores nothing.
    VOID = "x"


@dataclass(frozen=True, slots=True)
class Writer:
    """One session of a writer under a fence."""

    project: str
    canonical_id: str
    fence: int
    name: str
    session: str


@dataclass(frozen=True, slots=True)
class WriterPosition:
    """Where a writer goes on: the last accepted seq, its segment, whether it has written in this attempt."""

    seq: int
    segment: int
    written: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``step`` is the highest step of points, else the step of the commit or rewind."""

    seq: int
    segment: int
    kind: EntryKind
    payload: bytes
    points: int
    step: int
    #: A commit waits behind these points: they are taken in beyond the rate limits, and charged afterwards.
    barrier: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Stored points of one key: equally long columns, in the order logged."""

    attempt: int
    segment: int
    writer: str
    key: str
    steps: Sequence[int]
    times: Sequence[float]
    values: Sequence[float]


@dataclass(slots=True)
class Series:
    """Points of one (writer, key), ascending by step; ``superseded`` is empty unless hidden points were asked for."""

    key: str
    writer: str
    steps: list[int]
    values: list[float]
    times: list[float]
    attempts: list[int]
    superseded: list[bool]
