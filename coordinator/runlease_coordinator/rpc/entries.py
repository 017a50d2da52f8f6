"""Checks the entries of a writer's log and packs them for the store."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from runlease.ids import MAIN_WRITER
from runlease.v1 import metrics_pb2 as pb

from runlease_coordinator.domain.errors import InvalidField
from runlease_coordinator.domain.limits import LARGEST_POINTS
from runlease_coordinator.domain.metrics import Entry, EntryKind, Writer
from runlease_coordinator.domain.runs import OUTCOMES
from runlease_coordinator.domain.tickets import Tickets
from runlease_coordinator.rpc import fields
from runlease_coordinator.rpc.messages import STATES_BY_NUMBER
from runlease_coordinator.store.records import checkpoint_json

MAX_KEY = 256
#: Of one batch; the SDK's stay at about a tenth of it.
MAX_POINTS = LARGEST_POINTS
MAX_ROWS = 100_000
MAX_SERIES = 10_000
#: The scripts count in doubles.
MAX_SEQ = 2**53 - 1
#: 10000-01-01 in UNIX seconds: beyond it, and before 1970, nothing prints a time and no archive can hold it.
END_OF_TIME_S = 253_402_300_800.0


def open_writer(message: pb.OpenWriter, tickets: Tickets) -> Writer:
    """Check the first message of a stream."""
    name = fields.run_name(message.run, "open.run")
    if message.rank_ticket:
        if not tickets.is_good(message.rank_ticket, name.project, name.canonical_id, message.fence):
            raise InvalidField("open.rank_ticket", "it was issued for another run or fence")
        if message.writer == MAIN_WRITER:
            raise InvalidField("open.writer", "main is the holder's: a member of its group gives a name of its own")
    if message.durability == pb.DURABILITY_REPLICATED:
        raise InvalidField("open.durability", "REPLICATED is not supported by this version")
    if message.attempt and message.rank_ticket:
        raise InvalidField("open.attempt", "goes without a rank ticket: take the run's lease for a sync")
    return Writer(
        project=name.project,
        canonical_id=name.canonical_id,
        fence=fields.fence(message.fence, "open.fence"),
        name=fields.writer_name(message.writer, "open.writer"),
        session=fields.token(message.session, "open.session"),
        attempt=message.attempt,
        attempt_fence=fields.fence(message.attempt_fence, "open.attempt_fence") if message.attempt_fence else 0,
    )


def entry_of(message: pb.Entry, fence: int, *, may_end: bool = False) -> Entry:
    """Check one entry and pack its payload.

    Args:
        message: the entry.
        fence: that of its attempt.
        may_end: whether it may say how the attempt ended: it is over, and the writer is its main one.

    Raises:
        InvalidField: naming the field at fault.
    """
    if not 1 <= message.seq <= MAX_SEQ:
        raise InvalidField("entry.seq", f"1..2^53-1, not {message.seq}: the first entry under a fence is 1")
    match message.WhichOneof("payload"):
        case "points":
            return _points(message)
        case "commit":
            return _commit(message, fence)
        case "rewind":
            step = fields.step(message.rewind.step, "entry.rewind.step")
            return Entry(message.seq, message.segment, EntryKind.REWIND, b"%d" % step, 0, step)
        case "lost":
            return _lost(message)
        case "end":
            return _end(message, may_end)
    raise InvalidField("entry.payload", "points, commit, rewind, lost or end")


def void_entry(message: pb.Entry) -> Entry:
    """Return the entry that stands for a malformed one: it uses up the seq."""
    return Entry(message.seq, message.segment, EntryKind.VOID, b"", 0, 0)


def _points(message: pb.Entry) -> Entry:
    points = message.points
    steps = list(points.steps)
    rows = len(steps)
    if not 0 < rows <= MAX_ROWS:
        raise InvalidField("entry.points.steps", f"1..{MAX_ROWS} rows, not {rows}")
    if len(points.times) != rows:
        raise InvalidField("entry.points.times", f"one per row: {rows}, not {len(points.times)}")
    _times(points.times)
    if not 0 < len(points.series) <= MAX_SERIES:
        raise InvalidField("entry.points.series", f"1..{MAX_SERIES} series, not {len(points.series)}")
    highest = max(steps)
    fields.step(min(steps), "entry.points.steps")
    fields.step(highest, "entry.points.steps")
    count = sum(_series(series, rows, i) for i, series in enumerate(points.series))
    if count > MAX_POINTS:
        raise InvalidField("entry.points.series", f"at most {MAX_POINTS} points a batch, not {count}")
    payload = points.SerializeToString()
    return Entry(message.seq, message.segment, EntryKind.POINTS, payload, count, highest, message.barrier)


def _times(times: Sequence[float]) -> None:
    # A sum that is finite holds no NaN, so minimum and maximum can be believed; all three are loops in C.
    if math.isfinite(sum(times)) and min(times) >= 0.0 and max(times) < END_OF_TIME_S:
        return
    for row, time_s in enumerate(times):
        if not 0.0 <= time_s < END_OF_TIME_S:  # NaN is not
            problem = f"UNIX seconds of the years 1970..9999, not {time_s:g}: what does the writer's clock say?"
            raise InvalidField(f"entry.points.times[{row}]", problem)


def _series(series: pb.Series, rows: int, index: int) -> int:
    path = f"entry.points.series[{index}]"
    if not 0 < len(series.key) <= MAX_KEY:
        raise InvalidField(f"{path}.key", f"1..{MAX_KEY} characters, not {len(series.key)}")
    count = len(series.values)
    if not series.rows:
        if count != rows:
            raise InvalidField(f"{path}.values", f"one per row: {rows}, not {count}")
        return count
    places = list(series.rows)
    if len(places) != count:
        raise InvalidField(f"{path}.values", f"one per entry of rows: {len(places)}, not {count}")
    if places[-1] >= rows or any(later <= earlier for earlier, later in itertools.pairwise(places)):
        raise InvalidField(f"{path}.rows", f"ascending row numbers below {rows}")
    return count


def _commit(message: pb.Entry, fence: int) -> Entry:
    commit = message.commit
    step = fields.step(commit.step, "entry.commit.step")
    uri = fields.line(commit.uri, "entry.commit.uri", fields.MAX_URI)
    metadata = fields.json_map(commit.metadata, "entry.commit.metadata")
    payload = checkpoint_json(step, fence, uri, metadata)
    return Entry(message.seq, message.segment, EntryKind.COMMIT, payload, 0, step)


def _lost(message: pb.Entry) -> Entry:
    lost = message.lost
    if not 1 <= lost.entries <= message.seq:
        raise InvalidField("entry.lost.entries", f"1..seq, not {lost.entries}: the missing ones up to this one")
    if lost.points > MAX_SEQ:
        raise InvalidField("entry.lost.points", f"0..2^53-1, not {lost.points}")
    return Entry(message.seq, message.segment, EntryKind.LOST, b"", lost.points, lost.entries)


def _end(message: pb.Entry, may_end: bool) -> Entry:
    outcome = STATES_BY_NUMBER.get(message.end.outcome)
    if not may_end:
        raise InvalidField("entry.end", "only of an ended attempt (open.attempt), by its writer main: else release")
    if outcome not in OUTCOMES:
        raise InvalidField("entry.end.outcome", "FINISHED, FAILED, CRASHED, PREEMPTED or KILLED")
    return Entry(message.seq, message.segment, EntryKind.END, outcome.value.encode(), 0, 0)
