"""Whose histories make up a run's: its own, and before it those of the runs that it continues."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from runlease_coordinator.domain.metrics import LogPosition
from runlease_coordinator.domain.runs import Parent, Run, Segment
from runlease_coordinator.store.runs import RunStore, Snapshot


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run's own log as the reader sees it: up to an entry and a step, hidden by the segments of that moment.

    ``highest_step`` is None for the run itself. ``spared_by``: the segments that hide nothing of older stretches.
    """

    canonical_id: str
    attempt_of: Mapping[int, int]
    segments: Sequence[Segment]
    last_entry: LogPosition
    highest_step: int | None
    spared_by: Container[Segment]


async def lineage(runs: RunStore, project: str, snapshot: Snapshot) -> list[Stretch]:
    """Return a run's stretches, oldest first; what its ancestors did after it was forked or linked is not there.

    Raises:
        RunNotFound, Unavailable.
    """
    run = snapshot.run
    own = [segment for attempt in run.attempts for segment in attempt.segments]
    stretches = [_stretch(run, own, snapshot.last_entry, None)]
    parent = run.parent
    while parent is not None:
        # A deleted parent still serves, and none is purged while it is referenced.
        run = (await runs.get_run(project, parent.canonical_id, parent.canonical_id)).run
        stretches.append(_stretch(run, parent.segments, parent.last_entry, parent.step))
        parent = _parent_then(run, parent)
    return stretches[::-1]


def _stretch(run: Run, segments: Sequence[Segment], last_entry: str, highest_step: int | None) -> Stretch:
    return Stretch(
        canonical_id=run.canonical_id,
        attempt_of={attempt.fence: attempt.attempt for attempt in run.attempts},
        segments=segments,
        last_entry=LogPosition.parse(last_entry),
        highest_step=highest_step,
        spared_by=run.parent.spared_by if run.parent else (),
    )


def _parent_then(run: Run, seen_as: Parent) -> Parent | None:
    """Return the parent that a run had when it became a parent itself: a later link does not change its children."""
    return run.parent if seen_as.continues else None
