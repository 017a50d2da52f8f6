"""The log of one writer on its way out: rows, commits and rewinds in order, cut into numbered entries.

Pure: no threads, no gRPC, no clock; one thread at a time uses it. What is logged goes through three places:

    rows and marks --cut--> entries --sent--> in flight --acknowledged--> gone

Rows wait as they were logged and are packed into columns only when there is room on the wire, so what the
memory bound drops is always rows, oldest first; commits and rewinds (marks) are never dropped. Entries bear
no number of their own: the one at place i is the coordinator's last seq + 1 + i, which cannot leave a gap.
After a break the coordinator says where its log ends: what it has goes from the front, the rest is sent again.

The segment is the coordinator's to decide as well: it grows with a rewind that comes after a write. A write
that was refused is none, so a rewind is sent only when everything before it is settled, and nothing behind it
before it is settled itself. That costs two round trips a rewind, of which a training has one or two.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from itertools import islice

from runlease.columns import Row, pack
from runlease.durable import Durable
from runlease.exceptions import RunleaseError
from runlease.v1 import metrics_pb2 as pb

#: A row of more points is cut into pieces, so that even the longest keys keep an entry at about 1 MB.
_MAX_ROW_POINTS = 1000
#: Memory of a waiting row and of each of its points in bytes, on CPython 3.11; rows share their keys.
_ROW_BYTES, _POINT_BYTES = 200, 32
#: Memory of a mark or an entry beyond its payload, in bytes.
_OBJECT_BYTES = 400
#: Bytes on the wire at most: a row's step, time and place; a value and its row number; a series' frame.
_ROW_WIRE, _POINT_WIRE, _SERIES_WIRE = 20, 11, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterSettings:
    """How a writer paces and bounds itself."""

    drain_interval_s: float = 0.5
    """Seconds that a row waits for others before it is sent."""

    batch_points: int = 10_000
    """Points of one entry, at most."""

    batch_bytes: int = 256 << 10
    """Bytes of one entry on the wire, about; a batch that is full is sent at once."""

    buffer_bytes: int = 64 << 20
    """Memory for all that is not acknowledged, in bytes; beyond it the oldest rows drop."""

    window_entries: int = 64
    """Entries in flight, at most."""

    window_bytes: int = 16 << 20
    """Bytes in flight, about."""

    silence_s: float = 10.0
    """Seconds without an answer, while one is due, after which a connection counts as dead."""

    backoff_min_s: float = 0.1
    """Seconds before the first attempt to connect again; doubles up to `backoff_max_s`."""

    backoff_max_s: float = 2.0
    """Seconds between attempts to connect, at most."""

    stays_connected: bool = (3, 12) <= sys.version_info < (3, 12, 3)
    """Whether to connect at once and again after a break, though nothing waits to be sent.

    CPython 3.12.0 to 3.12.2 start no thread once the main thread has come to its end, not even for `atexit` or for
    threads that still run (python/cpython#113964), and a gRPC stream needs threads. There a stream has to be ready
    before, or what is logged last would be lost. All others start threads until the exit hooks are done.
    """


@dataclass(slots=True)
class Mark:
    """A commit or rewind among the rows."""

    payload: pb.Commit | pb.Rewind
    durable: Durable | None = None
    rows_before: int = 0


@dataclass(slots=True)
class Flush:
    """Asks to be told when everything before it is settled; `complete`: acknowledged to the last point."""

    durable: Durable
    complete: bool = False
    abandoned: bool = False
    position: tuple[int, int] = (0, 0)
    failures_before: int = 0


Item = Row | Mark | Flush


class SessionTaken(Exception):
    """The log holds more than this writer sent: another process writes as the same writer."""


@dataclass(slots=True)
class _Cut:
    """An entry that is cut and not yet acknowledged, as the request that carries it."""

    request: pb.AppendRequest
    points: int
    size: int
    #: How many rows and marks had left the waiting room before it.
    position: tuple[int, int]
    is_rewind: bool = False
    durable: Durable | None = None
    refused: bool = False


class Buffer:
    """What a writer has logged until it is acknowledged; counts what became of the points."""

    def __init__(self, settings: WriterSettings) -> None:
        """Take the bounds."""
        self._settings = settings
        self._rows: deque[Row] = deque()
        self._marks: deque[Mark] = deque()
        self._flushes: deque[Flush] = deque()
        self._cuts: deque[_Cut] = deque()
        #: How many of the cuts, from the front, are in flight on the present stream; their bytes.
        self._sent, self._sent_bytes = 0, 0
        #: Entries that may be in flight: 1 after a throttle, twice as many with each acknowledgement, up to the bound.
        self._window = settings.window_entries
        #: The coordinator's position: None before it was first told, then the seq of the last settled entry.
        self._seq: int | None = None
        self._segment, self._written = 0, False
        self._highest_sent = 0
        #: Rows and marks taken in, and those that left the waiting room (cut or dropped).
        self._rows_in, self._marks_in, self._rows_out, self._marks_out = 0, 0, 0, 0
        self._bytes = 0
        self._waiting_points = 0
        #: Points of the last row.
        self.row_width = 1
        #: Rows and entries that will never be acknowledged.
        self._failures = 0
        self.logged, self.acknowledged, self.dropped, self.rejected, self.lost = 0, 0, 0, 0, 0

    # What comes in.

    def take_in(self, inbox: deque[Item]) -> None:
        """Take what is in the inbox now; drops the oldest rows where the memory bound is met."""
        for _ in range(len(inbox)):  # not until it is empty: callers may fill it faster than it drains
            try:
                item = inbox.popleft()
            except IndexError:  # callers empty it themselves once the writer has ended
                break
            if isinstance(item, tuple):
                self._add_row(item)
            elif isinstance(item, Mark):
                self._add_mark(item)
            else:
                self._add_flush(item)
        self._drop_excess()
        self._settle_flushes()

    def _add_row(self, row: Row) -> None:
        count = len(row[3])
        self.logged += count
        self.row_width = count
        if count > _MAX_ROW_POINTS:
            step, time_s, keys, values = row
            for start in range(0, count, _MAX_ROW_POINTS):
                part = slice(start, start + _MAX_ROW_POINTS)
                self._queue_row((step, time_s, keys[part], values[part]))
        else:
            self._queue_row(row)

    def _queue_row(self, row: Row) -> None:
        self._rows.append(row)
        self._rows_in += 1
        self._bytes += _ROW_BYTES + _POINT_BYTES * len(row[3])
        self._waiting_points += len(row[3])

    def _add_mark(self, mark: Mark) -> None:
        mark.rows_before = self._rows_in
        self._marks.append(mark)
        self._marks_in += 1
        self._bytes += _OBJECT_BYTES + mark.payload.ByteSize()

    def _add_flush(self, flush: Flush) -> None:
        flush.position = (self._rows_in, self._marks_in)
        flush.failures_before = self._failures
        # Callers that gave up waiting must not pile up while the coordinator is away.
        self._flushes = deque(other for other in self._flushes if not other.abandoned)
        self._flushes.append(flush)

    def _drop_excess(self) -> None:
        while self._bytes > self._settings.buffer_bytes and self._rows:
            self.dropped += len(self._pop_row()[3])
            self._failures += 1

    def _pop_row(self) -> Row:
        row = self._rows.popleft()
        self._rows_out += 1
        self._bytes -= _ROW_BYTES + _POINT_BYTES * len(row[3])
        self._waiting_points -= len(row[3])
        return row

    # What goes out.

    @property
    def empty(self) -> bool:
        """Whether everything taken in is settled."""
        return not (self._rows or self._marks or self._cuts)

    @property
    def waiting(self) -> bool:
        """Whether something is not on its way yet."""
        return bool(self._rows or self._marks or self._sent < len(self._cuts))

    @property
    def in_flight(self) -> int:
        """Entries sent on the present stream and not yet settled."""
        return self._sent

    @property
    def urgent(self) -> bool:
        """Whether something is to be sent without waiting for company: a mark, a repetition, for a flush."""
        flushing = any(not flush.abandoned for flush in self._flushes)
        return bool(self._marks) or flushing or self._sent < len(self._cuts)

    @property
    def commit_waits(self) -> bool:
        """Whether a commit is not on its way yet: what is before it is taken in beyond the rate limits."""
        return self._commit_behind(self._sent - 1)

    def _commit_behind(self, place: int) -> bool:
        cuts = islice(self._cuts, place + 1, None)
        return any(cut.durable is not None for cut in cuts) or any(mark.durable is not None for mark in self._marks)

    @property
    def batch_is_full(self) -> bool:
        """Whether the waiting rows fill an entry."""
        limits = self._settings
        wire = len(self._rows) * _ROW_WIRE + self._waiting_points * _POINT_WIRE
        return self._waiting_points >= limits.batch_points or wire >= limits.batch_bytes

    @property
    def may_send(self) -> bool:
        """Whether the stream is open, the window has room and no rewind bars the way."""
        if self._seq is None:
            return False
        if not self._sent:
            return True
        limits = self._settings
        has_room = self._sent < self._window and self._sent_bytes < limits.window_bytes
        next_is_rewind = self._sent < len(self._cuts) and self._cuts[self._sent].is_rewind
        return has_room and not next_is_rewind and not self._cuts[self._sent - 1].is_rewind

    def next_request(self) -> pb.AppendRequest | None:
        """Return the next entry, numbered, and count it as in flight; None if there is none that may go."""
        if self._seq is None or not self.may_send:
            return None
        if self._sent == len(self._cuts) and not self._cut():
            return None
        cut = self._cuts[self._sent]
        if cut.is_rewind and self._sent:
            return None
        self._sent += 1
        self._sent_bytes += cut.size
        entry = cut.request.entry
        entry.seq = self._seq + self._sent
        entry.segment = self._segment + (self._written if cut.is_rewind else 0)
        entry.barrier = entry.HasField("points") and self._commit_behind(self._sent - 1)
        self._highest_sent = max(self._highest_sent, entry.seq)
        return cut.request

    def _cut(self) -> bool:
        position = (self._rows_out, self._marks_out)
        request = pb.AppendRequest()
        if self._marks and self._marks[0].rows_before <= self._rows_out:
            mark = self._marks.popleft()
            self._marks_out += 1
            size = _OBJECT_BYTES + mark.payload.ByteSize()
            is_rewind = isinstance(mark.payload, pb.Rewind)
            if isinstance(mark.payload, pb.Rewind):
                request.entry.rewind.CopyFrom(mark.payload)
            else:
                request.entry.commit.CopyFrom(mark.payload)
            self._cuts.append(_Cut(request, 0, size, position, is_rewind, mark.durable))
            return True
        rows, points, wire = self._cut_rows()
        if not rows:
            return False
        pack(rows, request.entry.points)
        size = _OBJECT_BYTES + wire
        self._bytes += size
        self._cuts.append(_Cut(request, points, size, position))
        return True

    def _cut_rows(self) -> tuple[list[Row], int, int]:
        """Take one entry's rows, none behind the next mark; returns also their points and wire bytes."""
        limits = self._settings
        room = self._marks[0].rows_before - self._rows_out if self._marks else len(self._rows)
        rows: list[Row] = []
        points, wire = 0, 0
        last_keys: tuple[str, ...] = ()
        seen: set[str] = set()
        while self._rows and len(rows) < room:
            _, _, keys, values = self._rows[0]
            cost = _ROW_WIRE + _POINT_WIRE * len(values)
            if keys is not last_keys:
                cost += sum(len(key.encode()) + _SERIES_WIRE for key in keys if key not in seen)
            if rows and (points + len(values) > limits.batch_points or wire + cost > limits.batch_bytes):
                break
            if keys is not last_keys:
                last_keys = keys
                seen.update(keys)
            points += len(values)
            wire += cost
            rows.append(self._pop_row())
        return rows, points, wire

    # What comes back.

    def opened(self, seq: int, segment: int, written: bool) -> int:
        """Go on where the coordinator's log ends; returns how many acknowledged entries it has lost.

        Raises:
            SessionTaken: it holds more than was sent.
        """
        entries_lost = 0
        if self._seq is not None:
            if seq > max(self._highest_sent, self._seq):
                raise SessionTaken
            entries_lost = max(0, self._seq - seq)
            self.acknowledge(seq)
        self._seq, self._segment, self._written = seq, segment, written
        self.disconnected()
        return entries_lost

    def disconnected(self) -> None:
        """Count nothing as in flight any more: it will be sent again."""
        self._sent, self._sent_bytes = 0, 0

    def throttled(self) -> None:
        """Count nothing as in flight, since it was refused for a rate limit, and go on with one entry at a time.

        Rows that wait meanwhile make fuller batches; a full window would be sent only to be refused.
        """
        self.disconnected()
        self._window = 1

    def acknowledge(self, seq: int) -> None:
        """Settle everything up to and including ``seq``."""
        self._window = min(2 * self._window, self._settings.window_entries)
        while self._seq is not None and self._seq < min(seq, self._highest_sent) and self._cuts:
            self._settle_first()
        self._settle_refused()

    def reject(self, seq: int, error: RunleaseError) -> int:
        """Count an entry as refused, its seq used up; returns its points."""
        place = seq - (self._seq or 0) - 1
        if not 0 <= place < len(self._cuts) or self._cuts[place].refused:
            return 0
        cut = self._cuts[place]
        cut.refused = True
        self.rejected += cut.points
        self._failures += 1
        if cut.durable is not None:
            cut.durable.settle(error)
        self._settle_refused()
        return cut.points

    def fail(self, error: RunleaseError) -> None:
        """Give up everything that is left: its points are lost, its promises fail."""
        self.lost += self._waiting_points + sum(cut.points for cut in self._cuts if not cut.refused)
        promises = [cut.durable for cut in self._cuts] + [mark.durable for mark in self._marks]
        promises += [flush.durable for flush in self._flushes]
        self._rows.clear()
        self._marks.clear()
        self._cuts.clear()
        self._flushes.clear()
        self._sent = self._sent_bytes = self._bytes = self._waiting_points = 0
        self._rows_out, self._marks_out = self._rows_in, self._marks_in
        for durable in promises:
            if durable is not None:
                durable.settle(error)

    def _settle_refused(self) -> None:
        while self._cuts and self._cuts[0].refused:
            self._settle_first()
        self._settle_flushes()

    def _settle_first(self) -> None:
        cut = self._cuts.popleft()
        self._seq = (self._seq or 0) + 1
        self._bytes -= cut.size
        if self._sent:
            self._sent -= 1
            self._sent_bytes -= cut.size
        if cut.refused:
            return
        if cut.is_rewind:
            self._segment += self._written
        else:
            self._written = True
        self.acknowledged += cut.points
        if cut.durable is not None:
            cut.durable.settle()

    def _settle_flushes(self) -> None:
        rows, marks = self._cuts[0].position if self._cuts else (self._rows_out, self._marks_out)
        while self._flushes:
            flush = self._flushes[0]
            if flush.position[0] > rows or flush.position[1] > marks:
                return
            self._flushes.popleft()
            flush.complete = self._failures == flush.failures_before
            flush.durable.settle()
