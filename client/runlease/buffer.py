"""The log of one writer on its way out: rows, commits and rewinds in order, cut into entries.

Pure: no threads, no gRPC, no clock; one thread at a time uses it. What is logged goes through these places:

    rows and marks --cut--> entries with a place --sent--> in flight --acknowledged--> kept for a while, gone
                               |  ^
                               v  |  beyond the memory bound
                              on disk

Rows wait as they were logged until there is room on the wire or they fill an entry. Commits and rewinds (marks) are
never dropped. Behind the cut it is `Backlog` that holds the entries. After a break the coordinator says where its log
ends: what it has goes from the front, the rest is sent again.

The segment is the coordinator's to decide: it grows with a rewind that comes after a write. A write that was refused is
none, so a rewind is sent only when everything before it is settled, and nothing behind it before it is settled itself.
That costs two round trips a rewind, of which a training has one or two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runlease.backlog import Backlog, SessionTaken
from runlease.batches import MAX_ROW_POINTS, POINT_WIRE, ROW_WIRE, pieces, take_batch
from runlease.columns import Row, pack
from runlease.durable import Durable
from runlease.exceptions import RunleaseError
from runlease.kept import OBJECT_BYTES, Cut
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb
from runlease.writersettings import WriterSettings

__all__ = ["Buffer", "Flush", "Item", "Mark", "SessionTaken", "WriterSettings"]

#: Memory of a waiting row and of each of its points in bytes, on CPython 3.11; rows share their keys.
_ROW_BYTES, _POINT_BYTES = 200, 32


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


class Buffer:
    """What a writer has logged until it is acknowledged; counts what became of the points."""

    def __init__(self, settings: WriterSettings, spool: Spool | None = None) -> None:
        """Take the bounds, and the disk for what they leave no room for."""
        self._settings = settings
        self.backlog = Backlog(settings, spool)
        self._journaled = spool is not None and spool.always
        self._rows: deque[Row] = deque()
        self._marks: deque[Mark] = deque()
        self._flushes: deque[Flush] = deque()
        #: Rows and marks taken in, and those that left the waiting room.
        self._rows_in, self._marks_in, self._rows_out, self._marks_out = 0, 0, 0, 0
        #: Memory of the waiting room, in bytes.
        self._bytes = 0
        self._waiting_points = 0
        #: Points of the last row.
        self.row_width = 1
        self.logged = 0

    # What became of the points.

    @property
    def acknowledged(self) -> int:
        """Points that the coordinator has."""
        return self.backlog.acknowledged

    @property
    def spooled(self) -> int:
        """Points on disk that are not acknowledged."""
        return self.backlog.spooled

    @property
    def dropped(self) -> int:
        """Points given up for want of room."""
        return self.backlog.dropped

    @property
    def rejected(self) -> int:
        """Points that the coordinator refused."""
        return self.backlog.rejected

    @property
    def lost(self) -> int:
        """Points that nobody has any more."""
        return self.backlog.lost

    # What comes in.

    def take_in(self, inbox: deque[Item]) -> None:
        """Take what is in the inbox now; what finds no room in memory goes to disk or drops."""
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
        while self.batch_is_full and self._cut():  # packed, rows take a sixth of the memory
            pass
        self._relieve()
        self._settle_flushes()

    def _add_row(self, row: Row) -> None:
        self.row_width = width = len(row[3])
        self.logged += width
        self._rows.append(row)
        self._rows_in += 1
        self._bytes += _ROW_BYTES + _POINT_BYTES * width
        self._waiting_points += width
        if width > MAX_ROW_POINTS:
            self._split_last()

    def _split_last(self) -> None:
        parts = pieces(self._rows.pop())
        self._rows.extend(parts)
        self._rows_in += len(parts) - 1
        self._bytes += _ROW_BYTES * (len(parts) - 1)

    def _add_mark(self, mark: Mark) -> None:
        mark.rows_before = self._rows_in
        self._marks.append(mark)
        self._marks_in += 1
        self._bytes += OBJECT_BYTES + mark.payload.ByteSize()

    def _add_flush(self, flush: Flush) -> None:
        flush.position = (self._rows_in, self._marks_in)
        flush.failures_before = self.backlog.failures
        # Callers that gave up waiting must not pile up while the coordinator is away.
        self._flushes = deque(other for other in self._flushes if not other.abandoned)
        self._flushes.append(flush)

    def _relieve(self) -> None:
        bound = self._settings.buffer_bytes
        if self._bytes + self.backlog.bytes > bound:
            while self._cut():
                pass
            self.backlog.relieve(bound)

    # What goes out.

    @property
    def empty(self) -> bool:
        """Whether everything taken in is settled."""
        return not (self._rows or self._marks or len(self.backlog))

    @property
    def waiting(self) -> bool:
        """Whether something is not on its way yet."""
        return bool(self._rows or self._marks or self.backlog.unsent)

    @property
    def in_flight(self) -> int:
        """Entries sent on the present stream and not yet settled."""
        return self.backlog.in_flight

    @property
    def urgent(self) -> bool:
        """Whether what waits is to be cut without waiting for company: for a mark, for a flush."""
        return bool(self._marks) or any(not flush.abandoned for flush in self._flushes)

    @property
    def commit_waits(self) -> bool:
        """Whether a commit is not on its way yet: what is before it is taken in beyond the rate limits."""
        return self.backlog.commit_waits or self._commit_uncut

    @property
    def _commit_uncut(self) -> bool:
        return any(mark.durable is not None for mark in self._marks)

    @property
    def batch_is_full(self) -> bool:
        """Whether the waiting rows fill an entry."""
        limits = self._settings
        wire = len(self._rows) * ROW_WIRE + self._waiting_points * POINT_WIRE
        return self._waiting_points >= limits.batch_points or wire >= limits.batch_bytes

    @property
    def may_send(self) -> bool:
        """Whether the stream is open, the window has room and no rewind bars the way."""
        return self.backlog.may_send

    def next_request(self, *, partial: bool = True) -> pb.AppendRequest | None:
        """Return the next entry, numbered, and count it as in flight; None if there is none that may go.

        Args:
            partial: whether rows that do not fill an entry go, too.
        """
        if not self.may_send:
            return None
        if not self.backlog.unsent and not ((partial or self.batch_is_full) and self._cut()):
            return None
        return self.backlog.next_request(self._commit_uncut)

    def _cut(self) -> bool:
        position = (self._rows_out, self._marks_out)
        request = pb.AppendRequest()
        if self._marks and self._marks[0].rows_before <= self._rows_out:
            mark = self._marks.popleft()
            self._marks_out += 1
            size = OBJECT_BYTES + mark.payload.ByteSize()
            self._bytes -= size
            if isinstance(mark.payload, pb.Rewind):
                request.entry.rewind.CopyFrom(mark.payload)
                cut = Cut(request, "rewind", 0, size, position, mark.durable)
            else:
                request.entry.commit.CopyFrom(mark.payload)
                cut = Cut(request, "commit", 0, size, position, mark.durable)
        else:
            room = self._marks[0].rows_before - self._rows_out if self._marks else len(self._rows)
            limits = self._settings
            rows, points, wire = take_batch(
                self._rows, room, batch_points=limits.batch_points, batch_bytes=limits.batch_bytes
            )
            if not rows:
                return False
            self._rows_out += len(rows)
            self._bytes -= _ROW_BYTES * len(rows) + _POINT_BYTES * points
            self._waiting_points -= points
            pack(rows, request.entry.points)
            cut = Cut(request, "points", points, OBJECT_BYTES + wire, position)
        if self._journaled:
            cut.items_through = self._rows_out + self._marks_out
        self.backlog.append(cut)
        return True

    # What comes back.

    def opened(self, seq: int, segment: int, written: bool, now: float = 0.0) -> tuple[int, int]:
        """Go on where the coordinator's log ends; returns entries and points that were acknowledged and are lost.

        Raises:
            SessionTaken: it holds more than was sent.
        """
        lost = self.backlog.opened(seq, segment, written, now)
        self._settle_flushes()
        return lost

    def disconnected(self) -> None:
        """Count nothing as in flight any more: it will be sent again."""
        self.backlog.disconnected()

    def throttled(self) -> None:
        """Count nothing as in flight, since it was refused for a rate limit, and go on with one entry at a time."""
        self.backlog.throttled()

    def acknowledge(self, seq: int, now: float = 0.0) -> None:
        """Settle everything up to and including ``seq``, acknowledged ``now`` (s)."""
        self.backlog.acknowledge(seq, now)
        self._settle_flushes()

    def reject(self, seq: int, error: RunleaseError, now: float = 0.0) -> int:
        """Count an entry as refused, its seq used up; returns its points."""
        points = self.backlog.reject(seq, error)
        self.backlog.settle_refused(now)
        self._settle_flushes()
        return points

    def shelve(self) -> None:
        """Leave everything to the disk, as far as it takes it: of an offline run that is where it is to be."""
        while self._cut():
            pass
        for cut in self.backlog.shelve():
            if cut.durable is not None:
                cut.durable.settle()
        self._settle_flushes()

    def fail(self, error: RunleaseError) -> None:
        """Give up everything that is left: it goes to disk or is lost, and its promises fail."""
        promises = [mark.durable for mark in self._marks] + [flush.durable for flush in self._flushes]
        promises += self.backlog.durables
        while self._cut():
            pass
        self.backlog.shelve(for_good=True)
        self._flushes.clear()
        for durable in promises:
            if durable is not None:
                durable.settle(error)

    def _settle_flushes(self) -> None:
        rows, marks = self.backlog.first_position or (self._rows_out, self._marks_out)
        while self._flushes:
            flush = self._flushes[0]
            if flush.position[0] > rows or flush.position[1] > marks:
                return
            self._flushes.popleft()
            flush.complete = self.backlog.failures == flush.failures_before
            flush.durable.settle()
