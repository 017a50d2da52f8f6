"""What is acknowledged and not yet forgotten, for the case that the store loses it: a failover, a restored backup."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from runlease.durable import Durable
from runlease.spool.files import Where
from runlease.v1 import metrics_pb2 as pb
from runlease.writersettings import WriterSettings

#: Memory of an entry beyond its payload, in bytes.
OBJECT_BYTES = 400
#: Places whose points are remembered exactly; beyond that of ever fewer.
_SAMPLES = 8192


@dataclass(slots=True)
class Cut:
    """An entry that has a place, as the request that carries it (None: it is on disk only)."""

    request: pb.AppendRequest | None
    kind: str
    points: int
    #: Bytes in memory, and about on the wire.
    size: int
    #: How many rows and marks had left the waiting room before it.
    position: tuple[int, int]
    durable: Durable | None = None
    place: int = 0
    #: How many entries it stands for: those that a `lost` one declares lost, it being the last of them.
    entries: int = 1
    refused: bool = False
    where: Where | None = None
    #: Up to which index the journal's items are in entries up to this one.
    items_through: int = 0


def lost_cut(place: int, entries: int, points: int, position: tuple[int, int] = (0, 0)) -> Cut:
    """Return an entry that declares the ``entries`` up to and including ``place`` lost."""
    request = pb.AppendRequest()
    request.entry.lost.entries = entries
    request.entry.lost.points = points
    return Cut(request, "lost", points, OBJECT_BYTES, position, place=place, entries=entries)


class Kept:
    """Entries acknowledged of late, and how many points were acknowledged up to each place."""

    def __init__(self, settings: WriterSettings) -> None:
        """Take the bounds."""
        self._settings = settings
        self._points: deque[tuple[float, Cut]] = deque()
        self._marks: deque[Cut] = deque()
        self._bytes = 0
        #: Places in ascending order, and the points acknowledged up to each.
        self._places: list[int] = [0]
        self._totals: list[int] = [0]

    def add(self, cut: Cut, now: float) -> None:
        """Keep an entry that was acknowledged ``now`` (s); forgets older ones beyond the bounds."""
        if cut.kind == "points":
            self._places.append(cut.place)
            self._totals.append(self._totals[-1] + cut.points)
            self._thin()
        if cut.request is None:  # it was sent, then left to the disk, and no longer is there
            pass
        elif cut.kind == "points":
            self._points.append((now, cut))
            self._bytes += cut.size
        else:
            self._marks.append(cut)
        self.expire(now)

    def expire(self, now: float) -> None:
        """Forget what was kept for long enough."""
        limits = self._settings
        while self._points and (self._points[0][0] <= now - limits.keep_s or self._bytes > limits.keep_bytes):
            self._bytes -= self._points.popleft()[1].size

    def take_back(self, first: int, last: int) -> list[Cut]:
        """Return what stood at the places ``first`` to ``last``, the last ones acknowledged, to be sent again.

        What is not kept any more is declared lost.
        """
        kept = [cut for _, cut in self._points if cut.place >= first]
        kept = sorted([*kept, *(cut for cut in self._marks if cut.place >= first)], key=lambda cut: cut.place)
        cuts: list[Cut] = []
        expected = first
        for cut in kept:
            if cut.place > expected:
                cuts.append(self._lost(expected, cut.place - 1))
            cuts.append(cut)
            expected = cut.place + 1
        if expected <= last:
            cuts.append(self._lost(expected, last))
        self._forget(first)
        return cuts

    def _lost(self, first: int, last: int) -> Cut:
        return lost_cut(last, last - first + 1, self._total(last) - self._total(first - 1))

    def _forget(self, first: int) -> None:
        while self._points and self._points[-1][1].place >= first:
            self._bytes -= self._points.pop()[1].size
        while self._marks and self._marks[-1].place >= first:
            self._marks.pop()
        # An older one may stand for those that were thinned out behind it: what is left of them is not known exactly.
        keep = max(1, bisect_right(self._places, first - 1))
        del self._places[keep:], self._totals[keep:]

    def _total(self, place: int) -> int:
        return self._totals[max(0, bisect_right(self._places, place) - 1)]

    def _thin(self) -> None:
        if len(self._places) > _SAMPLES:
            half = len(self._places) // 2
            self._places[:half] = self._places[:half:2]
            self._totals[:half] = self._totals[:half:2]
