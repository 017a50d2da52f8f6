"""What a tracker must be able to do to take in histories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runlease.history import Series
from runlease.ids import MAIN_WRITER
from runlease.records import RunRecord

#: What a target wants to find again when a run is opened later: JSON.
Memo = Mapping[str, Any]


class TargetError(Exception):
    """The target does not take what is sent; it is tried again later."""


class MissingPackage(Exception):
    """The target's package is not installed; the message says how to get it."""

    def __init__(self, extra: str, reason: ImportError) -> None:
        """Name the extra that brings it."""
        super().__init__(f"it needs more packages: pip install 'runlease[{extra}]' ({reason})")


class RunTarget(Protocol):
    """One run in the target. Every method may raise `TargetError`; then the run is opened again, later."""

    def restart(self, step: int, time_s: float) -> None:
        """Say that what was written at or above a step has been superseded."""

    def write(self, rows: Iterable[Row]) -> None:
        """Take rows, ascending by step, then time."""

    def flush(self) -> Memo:
        """Return once all that was written is safe with the target."""

    def end(self, record: RunRecord) -> None:
        """Say how the run ended; it may be resumed later."""

    def close(self) -> None:
        """Let go of it; what was not flushed may or may not be there."""


class Target(Protocol):
    """A tracker."""

    @property
    def identity(self) -> str:
        """Where it writes to: another identity has cursors of its own."""

    def open(self, record: RunRecord, name: str, memo: Memo) -> RunTarget:
        """Open a run, or open it again.

        Args:
            record: the run.
            name: what the target shall call it: its canonical ID, and the writer if that is not the holder's.
            memo: what the last `flush` returned, empty the first time.

        Raises:
            TargetError: it cannot be reached.
        """

    def close(self) -> None:
        """Let go of the tracker."""


@dataclass(frozen=True, slots=True)
class Row:
    """Values that were logged together; ``time`` is UNIX seconds by the writer's clock."""

    step: int
    time: float
    attempt: int
    values: Mapping[str, float]


def rows_of(series: Iterable[Series]) -> Iterator[Row]:
    """Yield the points of several keys as rows, ascending by step, then time; of a step logged twice the later point.

    Points of a series may come in the order of the log; then a point of a later attempt is later than others.
    """
    found: dict[tuple[int, float, int], dict[str, float]] = {}
    for one in series:
        places: dict[int, int] = {}
        for place, step in enumerate(one.steps):
            if one.attempts[place] >= one.attempts[places.get(step, place)]:
                places[step] = place
        for step, place in places.items():
            found.setdefault((step, one.times[place], one.attempts[place]), {})[one.key] = one.values[place]
    for where in sorted(found):
        yield Row(*where, found[where])


def run_name(canonical_id: str, writer: str) -> str:
    """Return what a target calls a run's history by one writer."""
    return canonical_id if writer == MAIN_WRITER else f"{canonical_id}@{writer}"
