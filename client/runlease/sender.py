"""A writer's side of the Append protocol: when to connect, what to send, what an answer means.

Its owner calls `turn` on one thread, whenever something is there or the time is up that `next_at` names. Nothing
in here waits.
"""

from __future__ import annotations

import logging
import random
import re
from collections import deque
from collections.abc import Callable

import grpc

from runlease.appendstream import AppendStream, Reply, StreamEnd
from runlease.buffer import Buffer, Item, SessionTaken, WriterSettings
from runlease.exceptions import CoordinatorUnavailable, InvalidArgument, RunleaseError, StaleFence
from runlease.spool.writing import Spool
from runlease.status import error_from
from runlease.v1 import metrics_pb2 as pb

#: Statuses that another attempt cannot mend.
_TERMINAL = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
#: Seconds that a clean end of the stream may take.
_FAREWELL_S = 0.2
#: Seconds after which a throttled entry is tried again at the latest: the limit may have been raised meanwhile.
_MAX_THROTTLE_S = 1.0
_NUMBERS = re.compile(r"\d+")

log = logging.getLogger("runlease")


class Stopped(Exception):
    """The writer may never write again; `error` says why."""

    def __init__(self, error: RunleaseError) -> None:
        """Hold the reason."""
        super().__init__(str(error))
        self.error = error


class Sender:
    """Keeps a stream open while there is something to send, and the buffer in step with it."""

    def __init__(
        self,
        open_stream: Callable[[], AppendStream],
        name: str,
        settings: WriterSettings,
        now: float,
        spool: Spool | None = None,
        on_unconfirmed: Callable[[], None] | None = None,
    ) -> None:
        """Take what opens a stream, what to call the log in warnings, the pace, and the disk if there is one.

        ``on_unconfirmed`` is called where the coordinator takes nothing before the lease is renewed.
        """
        self.buffer = Buffer(settings, spool)
        self._spool = spool
        #: The last thing that went wrong.
        self.last_error = ""
        self._open_stream = open_stream
        self._name = name
        self._on_unconfirmed = on_unconfirmed
        self._settings = settings
        self._stream: AppendStream | None = None
        self._is_open = False
        self._drain_at: float | None = None
        self._retry_at = self._heard_at = now
        self._backoff_s = settings.backoff_min_s
        self._random = random.Random()  # the global one is the training's, and seeded
        self._troubled = False
        self._drops_told = 0
        self._overflow_told = False
        self._fields_told: set[str] = set()
        #: A rate limit: until when nothing is sent; since when entries are refused for it, and for how long before.
        self._throttled_until: float | None = None
        self._throttled_since: float | None = None
        self._throttled_s = 0.0
        self._throttle_told = False

    @property
    def connected(self) -> bool:
        """Whether a stream is open and the coordinator has said where its log ends."""
        return self._is_open

    def throttled_s(self, now: float) -> float:
        """Return how long rate limits have held the log back, in seconds."""
        since = self._throttled_since
        return self._throttled_s + (max(0.0, now - since) if since is not None else 0.0)

    def turn(self, inbox: deque[Item], replies: deque[tuple[AppendStream, Reply]], now: float) -> None:
        """Take in what is there and do what is due.

        Raises:
            Stopped: the coordinator accepts nothing more from this writer.
        """
        self.buffer.take_in(inbox)
        self._tell_excess()
        while replies:
            stream, reply = replies.popleft()
            if stream is self._stream:  # not one that was given up
                self._take_reply(reply, now)
        self._watch(now)
        if self._wants_stream and now >= self._retry_at:
            self.connect(now)
        self._send(now)

    def next_at(self) -> float | None:
        """Return when the next turn is due if nothing comes in before; None: not at all."""
        buffer = self.buffer
        times = []
        if self._wants_stream:
            times.append(self._retry_at)
        elif self._stream is None:
            pass
        elif not self._is_open or buffer.in_flight:
            times.append(self._heard_at + self._settings.silence_s)
        if self._is_open and buffer.may_send and self._drain_at is not None:
            times.append(self._drain_at if self._throttled_until is None else self._throttled_until)
        return min(times, default=None)

    def end(self, error: RunleaseError, now: float) -> AppendStream | None:
        """Leave what is left to the disk, with the error for what waits for it; returns the stream for `part_from`."""
        delivered = self.buffer.empty
        complete = delivered and self._is_open
        self._throttle_ended(now)
        self.buffer.fail(error)
        if self._spool is not None:
            self._spool.end(delivered=delivered)
        if not complete:
            self._leave_stream()
        stream, self._stream, self._is_open = self._stream, None, False
        return stream

    # To the coordinator.

    @property
    def _wants_stream(self) -> bool:
        return self._stream is None and (self._settings.stays_connected or not self.buffer.empty)

    def connect(self, now: float) -> None:
        """Open a stream; `turn` does so when one is needed.

        Raises:
            Stopped: no stream can be opened any more.
        """
        try:
            self._stream = self._open_stream()
        except (ValueError, RuntimeError) as error:  # the channel is closed, or the interpreter is ending
            text = f"no stream for the log of {self._name} can be opened any more: {error}"
            raise Stopped(CoordinatorUnavailable(text)) from error
        self._heard_at = now

    def _send(self, now: float) -> None:
        buffer = self.buffer
        if buffer.waiting and self._drain_at is None:
            self._drain_at = now + self._settings.drain_interval_s
        if self._stream is None or not self._is_open or self._is_held_back(now):
            return
        due = buffer.urgent or (self._drain_at is not None and now >= self._drain_at)
        while True:
            was_quiet = not buffer.in_flight
            request = buffer.next_request(partial=due)
            if request is None:
                break
            if was_quiet:
                self._heard_at = now
            self._stream.send(request)
        if not buffer.waiting:
            self._drain_at = None

    def _is_held_back(self, now: float) -> bool:
        if self._throttled_until is not None and (now >= self._throttled_until or self.buffer.commit_waits):
            self._throttled_until = None
        return self._throttled_until is not None

    # From the coordinator.

    def _take_reply(self, reply: Reply, now: float) -> None:
        self._heard_at = now
        if isinstance(reply, StreamEnd):
            self._broken(reply.error, now)
            return
        match reply.WhichOneof("message"):
            case "opened":
                self._opened(reply.opened, now)
            case "ack":
                self._throttle_ended(now)
                self.buffer.acknowledge(reply.ack.seq, now)
                self._backoff_s = self._settings.backoff_min_s
            case "rejected":
                self._rejected(reply.rejected, now)
            case "throttle":
                self._throttled(reply.throttle, now)

    def _opened(self, opened: pb.Opened, now: float) -> None:
        acknowledged = self.buffer.acknowledged
        try:
            entries, points = self.buffer.opened(opened.seq, opened.segment, opened.written, now)
        except SessionTaken:
            stale = StaleFence(
                f"another process writes the log of {self._name} under the same lease: "
                "give each process a writer of its own, writer=NAME"
            )
            stale.reason = "SESSION_TAKEN"
            raise Stopped(stale) from None
        self._is_open = True
        again = acknowledged - self.buffer.acknowledged - points
        if entries or again > 0:
            log.warning(
                "the store has lost acknowledged metrics of %s: %d points are sent again, %d points in %d batches are "
                "not kept any more and are lost",
                self._name,
                max(0, again),
                points,
                entries,
            )
        if self._troubled:
            self._troubled = False
            log.warning("metrics of %s are sent again", self._name)

    def _throttled(self, throttle: pb.Throttle, now: float) -> None:
        # Entries behind it get no answer: they are sent again with it, on the same stream.
        self.buffer.throttled()
        self._throttled_until = now + min(throttle.retry_after_ms / 1000, _MAX_THROTTLE_S)
        if self._throttled_since is None:
            self._throttled_since = now
        if not self._throttle_told:
            self._throttle_told = True
            log.warning(
                "metrics of %s wait: they are above the limit of %d %s a second (said once; see `runlease limits`)",
                self._name,
                throttle.limit,
                " of the ".join(reversed(throttle.limited.split("/"))),
            )

    def _throttle_ended(self, now: float) -> None:
        self._throttled_s = self.throttled_s(now)
        self._throttled_since = None

    def _rejected(self, rejected: pb.Rejected, now: float) -> None:
        if rejected.expected_seq <= rejected.seq:  # a gap: start again where the coordinator's log ends
            self._leave_stream()
            self._back_off(now)
            return
        text = f"the coordinator refused {rejected.field}: {rejected.description}"
        points = self.buffer.reject(rejected.seq, InvalidArgument(text, field=rejected.field), now)
        self.last_error = text
        field = _NUMBERS.sub("", rejected.field)
        if field not in self._fields_told:
            self._fields_told.add(field)
            log.warning("%s (%d points of %s; said once per field)", text, points, self._name)

    def _broken(self, error: grpc.RpcError | None, now: float) -> None:
        if error is None:
            self._retry("the coordinator ended the stream", now)
            return
        mapped = error_from(error)
        if isinstance(error, grpc.Call) and error.code() in _TERMINAL:
            raise Stopped(mapped)
        if getattr(mapped, "reason", "") == "UNCONFIRMED" and self._on_unconfirmed is not None:
            self._on_unconfirmed()
        self._retry(str(mapped), now)

    # Trouble.

    def _watch(self, now: float) -> None:
        """Give up a stream that answers nothing though an answer is due."""
        answer_due = self._stream is not None and (not self._is_open or self.buffer.in_flight > 0)
        if answer_due and now >= self._heard_at + self._settings.silence_s:
            self._retry(f"no answer for {self._settings.silence_s:g} s", now)

    def _retry(self, why: str, now: float) -> None:
        self._leave_stream()
        self._back_off(now)
        self.last_error = why
        if not self._troubled and not self.buffer.empty:
            self._troubled = True
            log.warning("metrics of %s wait in memory until they can be sent: %s", self._name, why)

    def _leave_stream(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        self._stream, self._is_open, self._throttled_until = None, False, None
        self.buffer.disconnected()

    def _back_off(self, now: float) -> None:
        # Jitter, or a coordinator that comes back would get all its writers at once.
        pause_s = self._backoff_s * self._random.uniform(0.5, 1.0)
        if self._settings.stays_connected and self._backoff_s == self._settings.backoff_min_s:
            pause_s = 0.0  # the next stream must be there before the process may end; it waits for its connection
        self._retry_at = now + pause_s
        self._throttle_ended(now)
        self._backoff_s = min(2 * self._backoff_s, self._settings.backoff_max_s)

    def _tell_excess(self) -> None:
        buffer = self.buffer
        if buffer.spooled and self._spool is not None and not (self._spool.always or self._overflow_told):
            self._overflow_told = True
            log.warning(
                "memory for waiting metrics of %s is full (%d bytes): they go to disk, to %s",
                self._name,
                self._settings.buffer_bytes,
                self._spool.path,
            )
        dropped = buffer.dropped
        if dropped > 10 * self._drops_told:  # at powers of ten: news, yet no flood
            self._drops_told = dropped
            log.warning(
                "there is no more room for waiting metrics of %s in memory (%d bytes)%s: %d points, the oldest, were "
                "dropped so far",
                self._name,
                self._settings.buffer_bytes,
                "" if self._spool is None else f" or on disk ({self._spool.max_bytes} bytes)",
                dropped,
            )


def part_from(stream: AppendStream) -> None:
    """End a stream whose entries are all acknowledged: cleanly, or at once if that takes too long."""
    stream.finish(_FAREWELL_S)
    stream.cancel()
