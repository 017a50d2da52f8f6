"""A run's log on its way to the coordinator: calls that never wait, one thread that does the rest.

Callers put what they log into a queue and ring a bell; both are single operations of the interpreter, so they need
no lock and may be called from any thread and from signal handlers. One thread owns everything behind the queue:
the buffer, the stream, the clocks. Replies come to it over a queue, too. It wakes when something is logged after
a pause, when a batch is full, when a reply is there, and when a time is up; an idle writer does not wake.
"""

from __future__ import annotations

import logging
import os
import random
import re
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import grpc

from runlease.appendstream import AppendStream, Reply, StreamEnd
from runlease.buffer import Buffer, Flush, Item, Mark, SessionTaken, WriterSettings
from runlease.durable import Durable
from runlease.exceptions import CoordinatorUnavailable, InvalidArgument, RunleaseError, StaleFence
from runlease.ids import MAIN_WRITER
from runlease.stats import Stats
from runlease.status import error_from
from runlease.v1 import metrics_pb2 as pb
from runlease.v1 import metrics_pb2_grpc, runs_pb2

__all__ = ["Durable", "LogWriter", "Stats", "WriterSettings"]

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
#: Seconds that a clean end of the stream may take; a cancelled one takes none.
_FAREWELL_S = 0.2
#: Rows that may gather in the queue while a timer runs, at most.
_ROWS_UNSEEN = 1024
_NUMBERS = re.compile(r"\d+")

log = logging.getLogger("runlease")


class _Terminal(Exception):
    def __init__(self, error: RunleaseError) -> None:
        super().__init__(str(error))
        self.error = error


class LogWriter:
    """One writer's log: takes rows, commits and rewinds, and gets them to the coordinator once and in order.

    Guarantees: ``log``, ``commit`` and ``rewind`` do no I/O and never wait; what is acknowledged is in the
    coordinator's log, once, after everything logged before it. Not guaranteed: that everything is acknowledged.
    Beyond the memory bound the oldest rows are dropped, and what is left when the lease is lost or the writer
    closed is lost; `stats` counts both.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        project: str,
        run_id: str,
        fence: int,
        *,
        writer: str = MAIN_WRITER,
        settings: WriterSettings | None = None,
        on_stale: Callable[[RunleaseError], None] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        start: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the writer's place; nothing is sent before something is logged.

        Args:
            channel: to the coordinator; stays the caller's.
            project: the run's project.
            run_id: the run's ID.
            fence: the fence of the grant under which is written.
            writer: the writer's name.
            settings: pace and bounds.
            on_stale: called once, on the writer's thread, when the coordinator says that this writer may never
                write again.
            metadata: of every call, such as credentials.
            start: whether to start the thread now; else `start` does.
            clock: seconds, monotonic.
        """
        self._path = f"{project}/{run_id}"
        self._settings = settings or WriterSettings()
        self._stub = metrics_pb2_grpc.MetricServiceStub(channel)
        self._opening = pb.OpenWriter(
            run=runs_pb2.RunRef(project=project, id=run_id),
            fence=fence,
            writer=writer,
            session=secrets.token_hex(16),
        )
        self._metadata = tuple(metadata)
        self._on_stale = on_stale
        self._clock = clock
        self._pid = os.getpid()

        # The callers' side. `_alarm`: more items than this in the queue ring the bell, a lock that is held while
        # it is silent: releasing one is atomic, which ringing an Event is not.
        self._inbox: deque[Item] = deque()
        self._alarm = 0
        self._bell = threading.Lock()
        self._bell.acquire()
        self._late = 0
        self._stopping = self._ended = self._closed = False
        self._closed_complete = False
        self._end_error = RunleaseError(f"the log of {self._path} was closed before this was acknowledged")

        # The thread's side; `_books` is held while it changes, for `stats` to read.
        self._books = threading.RLock()
        self._buffer = Buffer(self._settings)
        self._replies: deque[tuple[AppendStream, Reply]] = deque()
        self._stream: AppendStream | None = None
        self._drain_at: float | None = None
        self._retry_at = self._heard_at = float("-inf")
        self._backoff_s = self._settings.backoff_min_s
        self._random = random.Random()  # the global one is the training's, and seeded
        self._troubled = False
        self._last_error = ""
        self._drops_told = 0
        self._rejected_fields: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="runlease-log", daemon=True)
        if start:
            self.start()

    # The callers' side.

    def start(self) -> None:
        """Start the thread that sends."""
        self._thread.start()

    def log(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Take a row: ``values`` of ``keys`` at a step, at ``time_s`` UNIX seconds. Never waits, never raises."""
        inbox = self._inbox
        inbox.append((step, time_s, keys, values))
        if len(inbox) > self._alarm:
            self._ring()

    def commit(self, step: int, uri: str, metadata: Mapping[str, str]) -> Durable:
        """Queue a checkpoint behind everything logged before; ``metadata`` maps keys to JSON texts.

        Raises:
            InvalidArgument: the URI or the metadata is not text.
        """
        try:
            commit = pb.Commit(step=step, uri=uri, metadata=dict(metadata))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f"a checkpoint's URI and metadata are text: {error}", field="commit"
            ) from None
        durable = Durable()
        self._inbox.append(Mark(commit, durable))
        self._ring()
        return durable

    def rewind(self, step: int) -> None:
        """Queue a rewind behind everything logged before: ``step`` is the next step."""
        self._inbox.append(Mark(pb.Rewind(step=step)))
        self._ring()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything logged before is acknowledged, at most ``timeout_s`` seconds (None: no bound).

        Returns whether it is; also False if something of it was dropped or refused while this waited.
        """
        if os.getpid() != self._pid:
            return False
        flush = Flush(Durable())
        self._inbox.append(flush)
        self._ring()
        try:
            settled = flush.durable.wait(timeout_s)
        except RunleaseError:
            return False
        flush.abandoned = not settled
        return settled and flush.complete

    def stats(self) -> Stats:
        """Return what became of the points so far."""
        if (
            os.getpid() != self._pid
        ):  # the thread that may have held the lock at the fork is not here to release it
            return self._count()
        with self._books:
            return self._count()

    def close(self, timeout_s: float) -> bool:
        """Flush, end the stream and the thread, all within ``timeout_s`` seconds; idempotent.

        Returns whether everything was acknowledged; what was not is lost.
        """
        if os.getpid() != self._pid or self._closed or threading.current_thread() is self._thread:
            return self._closed_complete
        self._closed = True
        deadline = time.monotonic() + timeout_s
        complete = self._thread.is_alive() and self.flush(max(0.0, timeout_s - min(0.25, timeout_s / 4)))
        self._closed_complete = complete
        self._stopping = True
        self._ring()
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return complete

    def abandon(self, error: RunleaseError | None = None) -> None:
        """Stop at once, in this process or a forked child; what is left is lost, and what waits for it is told.

        Args:
            error: what commits that wait are told.
        """
        if error is not None:
            self._end_error = error
        self._ended = True
        self._ring()

    def _ring(self) -> None:
        if self._ended:
            self._discard()
        self._alarm = -1 if self._ended else sys.maxsize
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it rings already

    def _discard(self) -> None:
        """Empty the queue of a writer that has ended; in a race of threads the count may fall short."""
        while self._inbox:
            try:
                item = self._inbox.popleft()
            except IndexError:
                return
            if isinstance(item, tuple):
                self._late += len(item[3])
            elif item.durable is not None:
                item.durable.settle(self._end_error)

    def _count(self) -> Stats:
        buffer, queued = self._buffer, 0
        while True:
            try:
                queued = sum(len(item[3]) for item in list(self._inbox) if isinstance(item, tuple))
                break
            except RuntimeError:  # it changed meanwhile
                continue
        lost = buffer.lost + self._late
        logged = buffer.logged + queued + self._late
        return Stats(
            logged=logged,
            acknowledged=buffer.acknowledged,
            buffered=logged - buffer.acknowledged - buffer.dropped - buffer.rejected - lost,
            dropped=buffer.dropped,
            rejected=buffer.rejected,
            lost=lost,
            connected=self._stream is not None and self._stream.is_open,
            last_error=self._last_error,
        )

    # The thread's side.

    def _run(self) -> None:
        stale: RunleaseError | None = None
        try:
            while not (self._ended or self._stopping):
                self._bell.acquire(timeout=self._doze())
                with self._books:
                    self._turn(self._clock())
        except _Terminal as terminal:
            stale = terminal.error
        except Exception as error:
            # Whatever a defect here is, nothing more would be sent: that must be told, not die with the thread.
            log.exception("the log of %s has ended by a defect", self._path)
            stale = RunleaseError(
                f"the log of {self._path} has ended by a defect: {error!r}; please report it"
            )
        self._wind_up(stale)
        if stale is not None and self._on_stale is not None:
            self._on_stale(stale)

    def _doze(self) -> float:
        """Return how long to wait for the bell, in seconds; -1 for as long as it takes."""
        buffer = self._buffer
        self._alarm = min(_ROWS_UNSEEN, self._settings.batch_points // max(1, buffer.row_width))
        if not buffer.waiting:
            self._alarm = 0  # the first row after a pause starts the timer
        if len(self._inbox) > self._alarm or self._replies:  # they came before the alarm was set
            return 0.0
        times = []
        if self._stream is None:
            if not buffer.empty:
                times.append(self._retry_at)
        elif not self._stream.is_open or buffer.in_flight:
            times.append(self._heard_at + self._settings.silence_s)
        if self._is_open and buffer.may_send and self._drain_at is not None:
            times.append(self._drain_at)
        return max(0.0, min(times) - self._clock()) if times else -1.0

    @property
    def _is_open(self) -> bool:
        return self._stream is not None and self._stream.is_open

    def _turn(self, now: float) -> None:
        self._buffer.take_in(self._inbox)
        self._tell_drops()
        while self._replies:
            stream, reply = self._replies.popleft()
            if stream is self._stream:  # not one that was given up
                self._take_reply(reply, now)
        self._watch(now)
        self._connect(now)
        self._send(now)

    def _send(self, now: float) -> None:
        buffer = self._buffer
        if buffer.waiting and self._drain_at is None:
            self._drain_at = now + self._settings.drain_interval_s
        if self._stream is None or not self._stream.is_open:
            return
        due = buffer.urgent or (self._drain_at is not None and now >= self._drain_at)
        while due or buffer.batch_is_full:
            was_quiet = not buffer.in_flight
            request = buffer.next_request()
            if request is None:
                break
            if was_quiet:
                self._heard_at = now
            self._stream.send(request)
        if not buffer.waiting:
            self._drain_at = None

    def _connect(self, now: float) -> None:
        if self._stream is not None or self._buffer.empty or now < self._retry_at:
            return
        try:
            self._stream = AppendStream(self._stub, self._opening, self._metadata, self._deliver)
        except (ValueError, RuntimeError) as error:
            raise _Terminal(
                CoordinatorUnavailable(
                    f"no stream for the log of {self._path} can be opened any more: {error}"
                )
            ) from error
        self._heard_at = now

    def _deliver(self, stream: AppendStream, reply: Reply) -> None:
        self._replies.append((stream, reply))
        self._ring()

    def _take_reply(self, reply: Reply, now: float) -> None:
        self._heard_at = now
        if isinstance(reply, StreamEnd):
            self._broken(reply.error, now)
            return
        match reply.WhichOneof("message"):
            case "opened":
                self._opened(reply.opened)
            case "ack":
                self._buffer.acknowledge(reply.ack.seq)
                self._backoff_s = self._settings.backoff_min_s
            case "rejected":
                self._rejected(reply.rejected, now)
            case "throttle":
                # Entries behind it were refused with it: a new stream starts again at the right one.
                self._leave_stream()
                self._retry_at = now + reply.throttle.retry_after_ms / 1000

    def _opened(self, opened: pb.Opened) -> None:
        assert self._stream is not None
        try:
            entries_lost = self._buffer.opened(opened.seq, opened.segment, opened.written)
        except SessionTaken:
            stale = StaleFence(f"another process writes {self._path} as writer {self._opening.writer!r}")
            stale.reason = "SESSION_TAKEN"
            raise _Terminal(stale) from None
        self._stream.is_open = True
        if entries_lost:
            log.warning("the store of %s has lost %d acknowledged batches", self._path, entries_lost)
        if self._troubled:
            self._troubled = False
            log.warning("metrics of %s are sent again: %d points waited", self._path, self._count().buffered)

    def _rejected(self, rejected: pb.Rejected, now: float) -> None:
        if rejected.expected_seq <= rejected.seq:  # a gap: start again where the coordinator's log ends
            self._leave_stream()
            self._back_off(now)
            return
        text = f"the coordinator refused {rejected.field}: {rejected.description}"
        points = self._buffer.reject(rejected.seq, InvalidArgument(text, field=rejected.field))
        self._last_error = text
        field = _NUMBERS.sub("", rejected.field)
        if field not in self._rejected_fields:
            self._rejected_fields.add(field)
            log.warning("%s (%d points of %s; said once per field)", text, points, self._path)

    def _watch(self, now: float) -> None:
        """Give up a stream that answers nothing though an answer is due."""
        stream = self._stream
        if stream is None or (stream.is_open and not self._buffer.in_flight):
            return
        if now >= self._heard_at + self._settings.silence_s:
            self._retry(f"no answer for {self._settings.silence_s:g} s", now)

    def _broken(self, error: grpc.RpcError | None, now: float) -> None:
        if error is None:
            self._retry("the coordinator ended the stream", now)
            return
        mapped = error_from(error)
        if isinstance(error, grpc.Call) and error.code() in _TERMINAL:
            raise _Terminal(mapped)
        self._retry(str(mapped), now)

    def _retry(self, why: str, now: float) -> None:
        self._leave_stream()
        self._back_off(now)
        self._last_error = why
        if not self._troubled and not self._buffer.empty:
            self._troubled = True
            log.warning("metrics of %s wait in memory until they can be sent: %s", self._path, why)

    def _leave_stream(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._buffer.disconnected()

    def _back_off(self, now: float) -> None:
        # Jitter, or a coordinator that comes back would get all its writers at once.
        self._retry_at = now + self._backoff_s * self._random.uniform(0.5, 1.0)
        self._backoff_s = min(2 * self._backoff_s, self._settings.backoff_max_s)

    def _tell_drops(self) -> None:
        dropped = self._buffer.dropped
        if dropped > 10 * self._drops_told:  # at 1, 11, 111, ... : news, yet no flood
            self._drops_told = dropped
            log.warning(
                "memory for waiting metrics of %s is full (%d bytes): %d points, the oldest, were dropped so far",
                self._path,
                self._settings.buffer_bytes,
                dropped,
            )

    def _wind_up(self, stale: RunleaseError | None) -> None:
        with self._books:
            if stale is not None:
                self._end_error, self._last_error = stale, str(stale)
            self._ended, self._alarm = True, -1  # from here on callers empty the queue
            self._buffer.take_in(self._inbox)
            complete = self._buffer.empty
            self._buffer.fail(self._end_error)
            stream, self._stream = self._stream, None
        if stream is not None:
            if complete and stream.is_open:
                stream.finish(_FAREWELL_S)
            stream.cancel()
