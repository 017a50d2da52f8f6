"""Entries on their way out, in order: in memory, in flight, on disk, kept for a while once they are acknowledged.

Each has a place, for ever: its seq is the base, where the coordinator's log ended when this session began, plus its
place. So an entry that is read from disk by somebody else is still the same entry, and what is gone leaves a gap, which
a `Lost` entry at its place declares.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from runlease.durable import Durable
from runlease.exceptions import RunleaseError
from runlease.kept import Cut, Kept, lost_cut
from runlease.spool.writing import Spool
from runlease.v1 import metrics_pb2 as pb
from runlease.writersettings import WriterSettings


class SessionTaken(Exception):
    """The log holds more than this writer sent: another process writes as the same writer."""


class Backlog:
    """The entries of a writer from the moment they are cut until nobody can ask for them again.

    Beyond the memory bound the last ones go to disk first: what is in front is needed next.
    """

    def __init__(self, settings: WriterSettings, spool: Spool | None) -> None:
        """Take the bounds, and the disk if there is one."""
        self._settings = settings
        self._spool = spool
        self._kept = Kept(settings)
        self._cuts: deque[Cut] = deque()
        #: How many of the cuts, from the front, are in flight on the present stream; their bytes.
        self._sent, self._sent_bytes = 0, 0
        #: Entries that may be in flight: 1 after a throttle, twice as many with each acknowledgement, up to the bound.
        self._window = settings.window_entries
        #: The seq of place 0; None before the coordinator has told it.
        self._base: int | None = None
        #: The place of the last settled entry, and of the last that was cut.
        self._settled = self._last = 0
        self._highest_sent = 0
        self._segment, self._written = 0, False
        #: The place of the last commit.
        self._last_commit = 0
        #: Bytes in memory of entries that are not settled.
        self.bytes = 0
        #: Points, and entries that will never be acknowledged.
        self.acknowledged = self.spooled = self.dropped = self.rejected = self.lost = self.failures = 0

    def __len__(self) -> int:
        """Return how many entries are not settled."""
        return len(self._cuts)

    @property
    def in_flight(self) -> int:
        """Entries sent on the present stream and not yet settled."""
        return self._sent

    @property
    def unsent(self) -> int:
        """Entries that are not in flight."""
        return len(self._cuts) - self._sent

    @property
    def first_position(self) -> tuple[int, int] | None:
        """The position of the first entry that is not settled; None: there is none."""
        return self._cuts[0].position if self._cuts else None

    @property
    def durables(self) -> list[Durable]:
        """The promises of commits that are not settled."""
        return [cut.durable for cut in self._cuts if cut.durable is not None]

    @property
    def commit_waits(self) -> bool:
        """Whether a commit is among those that are not in flight."""
        return self._sent < len(self._cuts) and self._last_commit >= self._cuts[self._sent].place

    # What comes in.

    def append(self, cut: Cut) -> None:
        """Take an entry, behind all others; with ``always`` it is on disk before this returns."""
        self._last += 1
        cut.place = self._last
        self._cuts.append(cut)
        self.bytes += cut.size
        if cut.kind == "commit":
            self._last_commit = cut.place
        if self._spool is not None and self._spool.always:
            while self._spool.is_full and self._drop_oldest():
                pass
            self._write(cut)

    def relieve(self, bound: int) -> None:
        """Get below a bound of bytes in memory: write the last entries to disk, or else drop the oldest points.

        With a disk it makes room for a while, not for one entry: each time costs a look at all of them.
        """
        if self.bytes <= bound or self._unload(bound // 2):
            return
        while self.bytes > bound and self._drop_oldest():
            if self._unload(bound // 2):
                return

    def _unload(self, bound: int) -> bool:
        """Leave entries to the disk until memory is within a bound; returns whether it took what it was given.

        What is in flight stays in memory, and is bounded by its window.
        """
        if self._spool is None:
            return False
        excess, chosen = self.bytes - bound, []
        for cut in islice(reversed(self._cuts), self.unsent):
            if excess <= 0:
                break
            if cut.request is not None and cut.kind != "lost" and not cut.refused:
                chosen.append(cut)
                excess -= cut.size
        for cut in reversed(chosen):  # in order, so that a file holds neighbours
            if not self._write(cut):
                return False
            cut.request = None
            self.bytes -= cut.size
        return True

    def _write(self, cut: Cut) -> bool:
        """Write an entry where it is not on disk yet; returns whether it is."""
        if cut.where is None and self._spool is not None and cut.request is not None and cut.place > 0:
            cut.where = self._spool.write(cut.request.entry, cut.place, cut.points, cut.items_through)
            if cut.where is not None and cut.kind == "points":
                self.spooled += cut.points
        return cut.where is not None

    def _drop_oldest(self) -> bool:
        """Drop the oldest points that are not in flight, on disk with their whole file; returns whether there are any.

        Commits and rewinds are never dropped.
        """
        for at in range(self._sent, len(self._cuts)):
            cut = self._cuts[at]
            if cut.kind != "points" or cut.refused:
                continue
            if cut.where is not None:
                self._drop_file(cut.where.number)
            else:
                self._drop_at(at)
            return True
        return False

    def _drop_at(self, at: int) -> None:
        cut = self._cuts[at]
        self.bytes -= cut.size if cut.request is not None else 0
        self._release(cut)
        self._cuts[at] = lost = self._as_lost(cut, dropped=True)
        self.bytes += lost.size
        self._merge(at + 1)
        self._merge(at)

    def _merge(self, at: int) -> None:
        """Let one entry declare what two neighbours do, at the place of the last."""
        if not self._sent < at < len(self._cuts):
            return
        first, last = self._cuts[at - 1], self._cuts[at]
        if first.kind == last.kind == "lost":
            entries, points = first.entries + last.entries, first.points + last.points
            self._cuts[at] = lost_cut(last.place, entries, points, first.position)
            self.bytes -= first.size
            del self._cuts[at - 1]

    def _drop_file(self, number: int) -> None:
        places = [cut.place for cut in self._cuts if cut.where is not None and cut.where.number == number]
        at = 0
        for place in places:
            while self._cuts[at].place < place:
                at += 1
            cut = self._cuts[at]
            if cut.kind == "points" and at >= self._sent:
                self._drop_at(at)
                at = max(0, at - 1)
            else:
                if cut.request is None:
                    cut = self._cuts[at] = self._load(cut)
                self._release(cut)

    def _as_lost(self, cut: Cut, *, dropped: bool) -> Cut:
        self.failures += 1
        if dropped:
            self.dropped += cut.points
        else:
            self.lost += cut.points
        return lost_cut(cut.place, 1, cut.points, cut.position)

    # What goes out.

    @property
    def may_send(self) -> bool:
        """Whether the stream is open, the window has room and no rewind bars the way."""
        if self._base is None:
            return False
        if not self._sent:
            return True
        limits = self._settings
        has_room = self._sent < self._window and self._sent_bytes < limits.window_bytes
        next_is_rewind = self._sent < len(self._cuts) and self._cuts[self._sent].kind == "rewind"
        return has_room and not next_is_rewind and self._cuts[self._sent - 1].kind != "rewind"

    def next_request(self, commit_behind: bool) -> pb.AppendRequest | None:
        """Return the next entry, numbered, and count it as in flight; None if there is none that may go.

        Args:
            commit_behind: whether a commit waits behind all entries that are cut.
        """
        if self._base is None or not self.may_send or self._sent == len(self._cuts):
            return None
        cut = self._cuts[self._sent]
        if cut.request is None:
            cut = self._cuts[self._sent] = self._load(cut)
        request = cut.request
        assert request is not None
        self._sent += 1
        self._sent_bytes += cut.size
        entry = request.entry
        entry.seq = self._base + cut.place
        entry.segment = self._segment + (self._written if cut.kind == "rewind" else 0)
        entry.barrier = cut.kind == "points" and (commit_behind or self._last_commit > cut.place)
        self._highest_sent = max(self._highest_sent, entry.seq)
        return request

    def _load(self, cut: Cut) -> Cut:
        """Read an entry from disk again; returns the one that stands at its place now."""
        entry = self._spool.read(cut.where) if self._spool is not None and cut.where is not None else None
        if entry is None:
            self._release(cut)
            if cut.durable is not None:
                cut.durable.settle(RunleaseError("the spool that held this commit is damaged: commit it again"))
            cut = self._as_lost(cut, dropped=False)
        else:
            cut.request = pb.AppendRequest(entry=entry)
        self.bytes += cut.size
        return cut

    def _release(self, cut: Cut) -> None:
        if cut.where is not None and self._spool is not None:
            self._spool.release(cut.where)
            cut.where = None
            if cut.kind == "points" and not cut.refused:
                self.spooled -= cut.points

    # What comes back.

    def opened(self, seq: int, segment: int, written: bool, now: float) -> tuple[int, int]:
        """Go on where the coordinator's log ends; returns entries and points that were acknowledged and are lost.

        Raises:
            SessionTaken: it holds more than was sent.
        """
        entries_lost = points_lost = 0
        if self._base is None:
            self._base = seq
            if self._spool is not None:
                self._spool.base(seq)
        elif seq > max(self._highest_sent, self._base + self._settled):
            raise SessionTaken
        elif seq < self._base + self._settled:
            entries_lost, points_lost = self._take_back(seq - self._base)
        else:
            self.acknowledge(seq, now)
            self._trim_lost(seq - self._base)
        self._segment, self._written = segment, written
        self.disconnected()
        return entries_lost, points_lost

    def _trim_lost(self, settled: int) -> None:
        """Declare nothing lost that arrived after all, before it was dropped here."""
        first = self._cuts[0] if self._cuts else None
        self._settled = max(self._settled, settled)
        if first is not None and first.kind == "lost" and first.place - first.entries < settled:
            self._cuts[0] = lost_cut(first.place, first.place - settled, first.points, first.position)

    def _take_back(self, settled: int) -> tuple[int, int]:
        """Put what the store has lost in front again, as far as it is kept."""
        cuts = self._kept.take_back(settled + 1, self._settled)
        lost = [cut for cut in cuts if cut.kind == "lost"]
        for cut in reversed(cuts):
            self._cuts.appendleft(cut)
            self.bytes += cut.size
            if cut.kind == "commit":
                self._last_commit = max(self._last_commit, cut.place)
        points_lost = sum(cut.points for cut in lost)
        self.acknowledged -= sum(cut.points for cut in cuts)
        self.lost += points_lost
        self.failures += len(lost)
        self._settled = settled
        return sum(cut.entries for cut in lost), points_lost

    def disconnected(self) -> None:
        """Count nothing as in flight any more: it will be sent again."""
        self._sent, self._sent_bytes = 0, 0

    def throttled(self) -> None:
        """Count nothing as in flight, since it was refused for a rate limit, and go on with one entry at a time.

        Rows that wait meanwhile make fuller batches; a full window would be sent only to be refused.
        """
        self.disconnected()
        self._window = 1

    def acknowledge(self, seq: int, now: float) -> None:
        """Settle everything up to and including ``seq``."""
        self._window = min(2 * self._window, self._settings.window_entries)
        place = min(seq, self._highest_sent) - (self._base or 0)
        while self._cuts and self._cuts[0].place <= place:
            self._settle_first(now)
        self.settle_refused(now)

    def reject(self, seq: int, error: RunleaseError) -> int:
        """Count an entry as refused, its seq used up; returns its points."""
        place = seq - (self._base or 0)
        for cut in islice(self._cuts, self._sent):
            if cut.place == place and not cut.refused:
                self._release(cut)
                cut.refused = True
                if cut.kind != "lost":  # those of a lost one are counted already
                    self.rejected += cut.points
                self.failures += 1
                if cut.durable is not None:
                    cut.durable.settle(error)
                return cut.points
        return 0

    def settle_refused(self, now: float) -> None:
        """Settle entries that were refused, as far as they are in front."""
        while self._cuts and self._cuts[0].refused:
            self._settle_first(now)

    def _settle_first(self, now: float) -> None:
        cut = self._cuts.popleft()
        self._settled = cut.place
        if cut.request is not None:
            self.bytes -= cut.size
        if self._sent:
            self._sent -= 1
            self._sent_bytes -= cut.size
        if cut.request is None and cut.kind in ("commit", "rewind") and not cut.refused:
            self._load(cut)  # they are kept for ever
            self.bytes -= cut.size
        self._release(cut)
        if cut.refused:
            return
        if cut.kind == "rewind":
            self._segment += self._written
        elif cut.kind != "lost" or cut.points:
            self._written = True
        if cut.kind == "lost":
            return
        self.acknowledged += cut.points
        if cut.durable is not None:
            cut.durable.settle()
        self._kept.add(cut, now)

    # The end.

    def shelve(self, *, for_good: bool = False) -> list[Cut]:
        """Write everything that is left to disk; returns what is there, which is no longer held here.

        Args:
            for_good: give up what the disk does not take: its points are lost.
        """
        shelved: list[Cut] = []
        left: deque[Cut] = deque()
        for cut in self._cuts:
            if cut.refused:
                continue
            if self._write(cut):
                shelved.append(cut)
                self.bytes -= cut.size if cut.request is not None else 0
            else:
                left.append(cut)
        self._cuts = left
        self.disconnected()
        if for_good:
            if self._spool is not None and self._base is not None and shelved:
                self._spool.acknowledged(self._settled)
            self.lost += sum(cut.points for cut in left if cut.kind != "lost")
            self.failures += len(left)
            left.clear()
            self.bytes = 0
        return shelved
