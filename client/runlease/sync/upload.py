"""Brings one session's entries in: a window of them under way, every one with the seq that its place gives it."""

from __future__ import annotations

import queue
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import tenacity

from runlease.appendstream import AppendStream, Reply, StreamEnd
from runlease.client import outcome_symbol, run_ref
from runlease.exceptions import CoordinatorUnavailable
from runlease.ids import MAIN_WRITER
from runlease.lease import Lease
from runlease.spool import Session
from runlease.status import error_from
from runlease.sync.report import Result
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc

#: Entries and bytes on their way to the coordinator at most, as of a trainer.
_WINDOW, _WINDOW_BYTES = 64, 16 << 20
#: Seconds without an answer after which a stream is given up.
_SILENCE_S = 10.0
#: Seconds that a clean end of the stream may take.
_FAREWELL_S = 1.0
#: Seconds after which a throttled entry is tried again at the latest: the limit may have been raised meanwhile.
_MAX_THROTTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Sent:
    seq: int
    request: pb.AppendRequest
    points: int
    size: int
    lost: int = 0


class Uploader:
    """Delivers one session under a fence; blocks."""

    def __init__(
        self,
        session: Session,
        result: Result,
        lease: Lease,
        channel: grpc.Channel,
        metadata: Sequence[tuple[str, str]],
        *,
        attempt: int,
        patience_s: float,
        on_points: Callable[[int], None],
    ) -> None:
        """Take what to deliver, and under which lease.

        Args:
            session: locked for this process.
            result: notes what is lost or refused.
            lease: of the session's own attempt, or of a sync.
            channel: to the coordinator.
            metadata: sent with the call.
            attempt: the ended attempt that the entries are of, under a sync; 0 under its own lease.
            patience_s: how long to try without any progress, in seconds.
            on_points: told of each entry that is acknowledged how many points it holds.
        """
        self._session, self._result, self._lease = session, result, lease
        self._stub = metrics_pb2_grpc.MetricServiceStub(channel)
        self._metadata, self._patience_s, self._on_points = metadata, patience_s, on_points
        header = session.header
        self._opening = pb.OpenWriter(
            # As granted: automatic keys may have led to another run than the one that was meant to be created.
            run=run_ref(lease.project, lease.run_id),
            fence=lease.fence,
            writer=header.writer,
            attempt=attempt,
            attempt_fence=header.fence if attempt else 0,
        )
        self._ends = attempt > 0 and header.writer == MAIN_WRITER and session.outcome is not None
        self._replies: queue.SimpleQueue[tuple[AppendStream, Reply]] = queue.SimpleQueue()
        self._progressed_at = time.monotonic()
        self._window = _WINDOW

    def deliver(self) -> None:
        """Return once everything is acknowledged.

        Raises:
            LeaseLost, StaleFence: somebody else took the run, or the writer.
            CoordinatorUnavailable: there was no progress for too long.
            InvalidArgument, RunDeleted: the coordinator does not take it.
            OSError: a file of the spool cannot be read.
        """
        self._progressed_at = time.monotonic()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_worth_another_try),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            stop=tenacity.stop_never,
            reraise=True,
        )
        retrying(self._once)

    def _is_worth_another_try(self, error: BaseException) -> bool:
        away = isinstance(error, CoordinatorUnavailable)
        return away and time.monotonic() < self._progressed_at + self._patience_s

    def _once(self) -> None:
        self._opening.session = secrets.token_hex(16)
        stream = AppendStream(self._stub, self._opening, self._metadata, self._take)
        try:
            self._feed(stream, self._requests(self._opened(stream)))
        finally:
            stream.finish(_FAREWELL_S)
            stream.cancel()

    def _take(self, stream: AppendStream, reply: Reply) -> None:
        self._replies.put((stream, reply))

    def _opened(self, stream: AppendStream) -> pb.Opened:
        reply = self._reply(stream)
        if reply.WhichOneof("message") != "opened":
            raise CoordinatorUnavailable("the coordinator did not say where the log ends")
        self._session.delivered(reply.opened.seq)  # settles where its entries begin
        return reply.opened

    def _reply(self, stream: AppendStream) -> pb.AppendResponse:
        self._check_lease()
        while True:
            try:
                whose, reply = self._replies.get(timeout=_SILENCE_S)
            except queue.Empty:
                raise CoordinatorUnavailable(f"no answer for {_SILENCE_S:g} s") from None
            if whose is not stream:  # one that was given up
                continue
            if not isinstance(reply, StreamEnd):
                return reply
            if reply.error is not None:
                raise error_from(reply.error)
            raise CoordinatorUnavailable("the coordinator ended the stream")

    def _check_lease(self) -> None:
        if self._lease.lost.is_set():
            raise self._lease.loss_error()

    # What to send.

    def _requests(self, opened: pb.Opened) -> Iterator[_Sent]:
        """Yield what is missing behind the coordinator's position, each with seq and segment."""
        session, segment, written = self._session, opened.segment, opened.written
        base = session.base or 0
        last = max(base + session.last_place, opened.seq)
        for seq, entry in self._entries(opened.seq, base):
            kind, points = entry.WhichOneof("payload"), _points(entry)
            if kind == "rewind":
                segment += written
            elif kind in ("points", "commit") or (kind == "lost" and entry.lost.points):
                written = True
            entry.seq, entry.segment = seq, segment
            request = pb.AppendRequest(entry=entry)
            yield _Sent(seq, request, points, request.ByteSize(), entry.lost.entries)
        if self._ends:
            end = pb.Entry(seq=last + 1, end=pb.End(outcome=outcome_symbol(session.outcome or "")))
            yield _Sent(last + 1, pb.AppendRequest(entry=end), 0, 0)

    def _entries(self, there: int, base: int) -> Iterator[tuple[int, pb.Entry]]:
        """Yield seq and entry behind seq ``there``, with a Lost one for each gap."""
        if there < base and self._session.last_place:  # the store has lost what it had acknowledged before
            yield base, _lost(base - there)
            there = base
        gaps = deque(gap for gap in self._session.gaps if base + gap.last > there)
        for place, entry in self._session.entries(max(0, there - base)):
            while gaps and gaps[0].last < place:
                gap = gaps.popleft()
                yield base + gap.last, _lost(base + gap.last - there)
                there = base + gap.last
            seq = base + place
            if entry.HasField("lost"):  # a part of what it stands for may have arrived
                entry.lost.entries = seq - there
            yield seq, entry
            there = seq

    # The window.

    def _feed(self, stream: AppendStream, requests: Iterator[_Sent]) -> None:
        under_way: deque[_Sent] = deque()
        again: deque[_Sent] = deque()
        size, is_done = 0, False
        while True:
            while not is_done and len(under_way) < self._window and (size < _WINDOW_BYTES or not under_way):
                sent = again.popleft() if again else next(requests, None)
                if sent is None:
                    is_done = True
                    break
                stream.send(sent.request)
                under_way.append(sent)
                size += sent.size
            if not under_way:
                return
            reply = self._reply(stream)
            match reply.WhichOneof("message"):
                case "throttle":
                    again.extendleft(reversed(under_way))
                    under_way.clear()
                    size, is_done, self._window = 0, False, 1
                    self._progressed_at = time.monotonic()  # it answers, and lets everybody wait
                    time.sleep(min(reply.throttle.retry_after_ms / 1000, _MAX_THROTTLE_S))
                    continue
                case "ack":
                    settled = reply.ack.seq
                    self._window = min(2 * self._window, _WINDOW)
                case "rejected":
                    settled = self._rejected(reply.rejected)
                case _:
                    raise CoordinatorUnavailable("the coordinator answered what was not asked")
            while under_way and under_way[0].seq <= settled:
                sent = under_way.popleft()
                size -= sent.size
                self._progressed_at = time.monotonic()
                self._result.sent_points += sent.points
                self._result.lost_entries += sent.lost
                self._on_points(sent.points)

    def _rejected(self, rejected: pb.Rejected) -> int:
        if rejected.expected_seq <= rejected.seq:  # a gap: the store lost what it had, so start where it ends
            raise CoordinatorUnavailable(f"the coordinator's log ends at {rejected.expected_seq - 1}")
        self._result.notes.append(f"refused: {rejected.field}: {rejected.description}")
        return rejected.seq


def _lost(entries: int) -> pb.Entry:
    # How many points they held is not known; that it was one in each at least is most likely.
    return pb.Entry(lost=pb.Lost(entries=entries, points=entries))


def _points(entry: pb.Entry) -> int:
    return sum(len(series.values) for series in entry.points.series)
