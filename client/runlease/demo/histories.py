"""What the demo verifies about two histories, as plain functions over their points."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: How many differences a failed check names.
_NAMED = 3


class Point(NamedTuple):
    """One point as `History.rows()` gives it."""

    key: str
    step: int
    value: float
    time: float
    attempt: int
    writer: str


@dataclass(frozen=True)
class Check:
    """A claim, and what speaks against it."""

    claim: str
    faults: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the claim."""
        return not self.faults

    def lines(self) -> list[str]:
        """Return the verdict as lines for the screen."""
        return [
            f"{'ok    ' if self.holds else 'FAILED'}  {self.claim}",
            *(f"          {fault}" for fault in self.faults),
        ]


def points(rows: Iterable[Sequence[object]]) -> list[Point]:
    """Name the fields of rows."""
    return [Point(*row) for row in rows]  # type: ignore[arg-type]  # rows have no types


def every_step_once(run: str, shown: Sequence[Point], expected: Mapping[str, range]) -> Check:
    """Check that each key has exactly the steps that were trained, each one time."""
    counts = Counter((point.key, point.step) for point in shown)
    wanted = {(key, step) for key, steps in expected.items() for step in steps}
    faults = [f"{key} misses step {step}" for key, step in sorted(wanted - counts.keys())]
    faults += [f"{key} has an unexpected step {step}" for key, step in sorted(counts.keys() - wanted)]
    faults += [f"{key} has step {step} {n} times" for (key, step), n in sorted(counts.items()) if n > 1]
    return Check(f"{run}: each step is there exactly once ({len(shown)} points)", _some(faults))


def same_points(left: Sequence[Point], right: Sequence[Point]) -> Check:
    """Check that both have the same keys and steps with the same values, bit for bit."""
    ours, theirs = _bits(left), _bits(right)
    faults = [f"{key} at step {step}: only in one of them" for key, step in sorted(ours.keys() ^ theirs.keys())]
    faults += [
        f"{key} at step {step}: {_value(ours[key, step])!r} against {_value(theirs[key, step])!r}"
        for key, step in sorted(ours.keys() & theirs.keys())
        if ours[key, step] != theirs[key, step]
    ]
    return Check(f"both histories agree point by point, bit for bit ({len(ours)} points)", _some(faults))


def superseded_points(everything: Sequence[Point], shown: Sequence[Point]) -> list[Point]:
    """Return the points that a default view hides."""
    return list((Counter(everything) - Counter(shown)).elements())


def superseded_kept(everything: Sequence[Point], shown: Sequence[Point], *, attempt: int, start: int) -> Check:
    """Check that what `attempt` had logged from step `start` on is hidden, and still there when asked for."""
    hidden = superseded_points(everything, shown)
    steps = sorted({point.step for point in hidden})
    faults = [] if hidden else ["no superseded point is there"]
    faults += [
        f"{lost.key} at step {lost.step} is shown but not in the full view" for lost in _missing(shown, everything)
    ]
    faults += [
        f"{point.key} at step {point.step} of attempt {point.attempt} is hidden"
        for point in hidden
        if point.attempt != attempt or point.step < start
    ]
    faults += [
        f"{point.key} at step {point.step} of attempt {attempt} is still shown"
        for point in shown
        if point.attempt == attempt and point.step >= start
    ]
    if steps and steps != list(range(start, steps[-1] + 1)):
        faults.append(f"the superseded steps are not {start}..{steps[-1]} without a gap")
    extent = f"steps {steps[0]}..{steps[-1]}, {len(hidden)} points" if steps else "none"
    return Check(f"what was superseded is hidden, and there when asked for ({extent})", _some(faults))


def nothing_superseded(run: str, everything: Sequence[Point], shown: Sequence[Point]) -> Check:
    """Check that a run without a crash has nothing to hide."""
    faults = [f"{point.key} at step {point.step} is hidden" for point in superseded_points(everything, shown)]
    return Check(f"{run}: nothing is superseded", _some(faults))


def _missing(shown: Sequence[Point], everything: Sequence[Point]) -> list[Point]:
    return list((Counter(shown) - Counter(everything)).elements())


def _bits(shown: Sequence[Point]) -> dict[tuple[str, int], bytes]:
    # Bits rather than values: -0.0 equals 0.0, and a NaN does not equal itself.
    return {(point.key, point.step): struct.pack(">d", point.value) for point in shown}


def _value(bits: bytes) -> float:
    value: float = struct.unpack(">d", bits)[0]
    return value


def _some(faults: Sequence[str]) -> tuple[str, ...]:
    more = len(faults) - _NAMED
    return (*faults[:_NAMED], f"and {more} more") if more > 0 else tuple(faults)
