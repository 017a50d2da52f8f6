"""The callers' side of a run's log: calls that never wait, one thread that does the rest.

Callers put what they log into a queue and ring a bell. Both are single operations of the interpreter, so they
need no lock and may be called from any thread and from signal handlers. One thread owns everything behind the
queue: the buffer, the stream, the clocks. It wakes when something is logged after a pause, when a batch is full,
when an answer is there, and when a time is up; an idle writer does not wake.

With a journal (``spool="always"``) each call also writes what it logs, under a lock, before it returns: queue and
journal must have one order.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from runlease.appendstream import AppendStream, Reply
from runlease.batches import pieces
from runlease.buffer import Buffer, Flush, Item, Mark
from runlease.client import outcome_symbol
from runlease.durable import Durable
from runlease.exceptions import InvalidArgument, RunleaseError
from runlease.sender import Stopped, part_from
from runlease.session import update_request
from runlease.spool.writing import Spool
from runlease.stats import Stats
from runlease.v1 import metrics_pb2 as pb
from runlease.writersettings import WriterSettings

#: Rows that may gather in the queue while a timer runs, at most.
_ROWS_UNSEEN = 1024
#: Part of the time for closing that is kept for the end of the stream and the thread, at most, in seconds.
_ENDING_S = 0.25
#: What a spool may need beyond that for all that is in memory: bytes a second, and seconds on a disk that hangs.
_SPILL_BYTES_PER_S, _SPILL_GRACE_S = 32e6, 5.0
#: Of one checkpoint's message, in bytes: above all that a coordinator takes (a mebibyte of metadata, at 4 bytes a
#: character at most), below what gRPC carries. Beyond that it would end every stream, and block the log for ever.
_MAX_COMMIT_BYTES = 8 << 20
#: How often `stats` looks for a moment in which the thread changes nothing, a millisecond apart.
_COUNT_TRIES = 50

log = logging.getLogger("runlease")


class Outlet(Protocol):
    """What the thread drives: a `Sender`, or of an offline run what writes to disk."""

    buffer: Buffer
    last_error: str

    @property
    def connected(self) -> bool: ...
    def turn(self, inbox: deque[Item], replies: deque[tuple[AppendStream, Reply]], now: float) -> None: ...
    def next_at(self) -> float | None: ...
    def throttled_s(self, now: float) -> float: ...
    def end(self, error: RunleaseError, now: float) -> AppendStream | None: ...


class LogThread:
    """One writer's log: takes rows, commits and rewinds, and hands them to its outlet once and in order.

    Guarantees: without a journal ``log``, ``commit`` and ``rewind`` do no I/O; they never wait for the coordinator.
    What `stats` counts adds up.
    """

    def __init__(
        self,
        name: str,
        outlet: Outlet,
        *,
        settings: WriterSettings,
        spool: Spool | None,
        on_stale: Callable[[RunleaseError], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what the thread drives; `start` starts it.

        Args:
            name: of the run, for people.
            outlet: where the log goes.
            settings: pace and bounds.
            spool: the disk, if there is one.
            on_stale: called once, on the writer's thread, when the writer may never write again.
            clock: seconds, monotonic.
        """
        self._name = name
        self._settings = settings
        self._spool = spool
        self._on_stale = on_stale
        self._clock = clock
        self._pid = os.getpid()

        self._inbox: deque[Item] = deque()
        #: More items than this in the queue ring the bell: a lock that is held while it is silent, since to
        #: release one is atomic, which to set an Event is not.
        self._alarm = 0
        self._bell = threading.Lock()
        self._bell.acquire()
        #: Points that were logged after the end.
        self._late = 0
        self._stopping = self._ended = False
        self._closed: bool | None = None
        self._end_error = RunleaseError(f"the log of {name} was closed before this was acknowledged")
        self._journal = spool if spool is not None and spool.always else None
        if self._journal is not None:  # so that without one `log` pays nothing for it
            self.log = self._log_and_write  # type: ignore[method-assign]  # mypy takes methods for fixed

        #: Odd while the thread changes the counts, so that `stats` can tell. No lock: a signal handler that
        #: flushes in the middle of a call to `stats` would wait for the thread, and the thread for the lock.
        self._edition = 0
        self._replies: deque[tuple[AppendStream, Reply]] = deque()
        self._outlet = outlet
        self._thread = threading.Thread(target=self._run, name="runlease-log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def log(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Take a row: ``values`` of ``keys`` at a step and ``time_s`` UNIX seconds. Never waits, never raises."""
        inbox = self._inbox
        inbox.append((step, time_s, keys, values))
        if len(inbox) > self._alarm:
            self._ring()

    def _log_and_write(self, step: int, time_s: float, keys: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Take a row and write it to the journal before this returns; in pieces, if an entry does not hold it."""
        row = (step, time_s, keys, values)
        if self._ended or self._journal is None:  # a forked child must not touch the lock
            self._inbox.append(row)
        else:
            with self._journal.lock:
                for piece in pieces(row):
                    self._journal.row(piece)
                    self._inbox.append(piece)
        if len(self._inbox) > self._alarm:
            self._ring()

    def _queue(self, mark: Mark) -> None:
        if self._ended or self._journal is None:
            self._inbox.append(mark)
        else:
            with self._journal.lock:
                self._journal.mark(mark.payload)
                self._inbox.append(mark)
        self._ring()

    def commit(self, step: int, uri: str, metadata: Mapping[str, str]) -> Durable:
        """Queue a checkpoint behind everything logged before; ``metadata`` maps keys to JSON texts.

        Raises:
            InvalidArgument: the URI or the metadata is not text, or they are too large to be sent.
        """
        try:
            commit = pb.Commit(step=step, uri=uri, metadata=dict(metadata))
        except (TypeError, ValueError) as error:
            text = f"a checkpoint has a URI and metadata that are text: {error}"
            raise InvalidArgument(text, field="commit") from None
        if (size := commit.ByteSize()) > _MAX_COMMIT_BYTES:
            text = f"a checkpoint of {size} bytes: its metadata may have a mebibyte; keep it in a file, commit its URI"
            raise InvalidArgument(text, field="metadata")
        durable = Durable()
        self._queue(Mark(commit, durable))
        return durable

    def rewind(self, step: int) -> None:
        """Queue a rewind behind everything logged before; ``step`` is the next step."""
        self._queue(Mark(pb.Rewind(step=step)))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was logged before is acknowledged, at most ``timeout_s`` seconds (None: no bound).

        Returns whether it is. False, too, if some of it was dropped or refused while this waited.
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
        for _ in range(_COUNT_TRIES if os.getpid() == self._pid else 0):
            edition = self._edition
            if edition % 2 == 0:
                stats = self._count()
                if self._edition == edition:
                    return stats
            time.sleep(0.001)
        return self._count()  # a turn away from the truth, at most

    def close(self, timeout_s: float) -> bool:
        """Flush, end the stream and the thread, all within ``timeout_s`` seconds; idempotent.

        Returns whether everything was acknowledged. What was not goes to the spool, which may take a moment more, or
        is lost without one.
        """
        if os.getpid() != self._pid or threading.current_thread() is self._thread:
            return False
        if self._closed is None:
            deadline = time.monotonic() + timeout_s
            running = self._thread.is_alive()
            self._closed = running and self.flush(max(0.0, timeout_s - min(self._ending_s, timeout_s / 4)))
            self._stopping = True
            self._ring()
            if running:
                self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._closed

    @property
    def _ending_s(self) -> float:
        in_memory = 0 if self._spool is None else self._outlet.buffer.backlog.bytes
        return _ENDING_S + in_memory / _SPILL_BYTES_PER_S

    def keep(self, *, outcome: str = "", changes: Mapping[str, Any] | None = None) -> bool:
        """Leave to a sync what the coordinator was not told: how the run ended, changes of it; after `close`.

        Returns whether it is on disk.
        """
        spool = self._spool
        if spool is None or not self._joined():
            return False
        kept = not changes or spool.update(update_request(**changes))
        return kept and (not outcome or spool.outcome(outcome_symbol(outcome)))

    def leave(self) -> Path | None:
        """Let go of the spool, after `close` or `abandon`; returns where it lies, if something is left in it."""
        spool = self._spool
        return spool.path if spool is not None and self._joined() and spool.close() else None

    def _joined(self) -> bool:
        """Wait for the thread, which may be writing what is left; returns whether it has ended."""
        if os.getpid() != self._pid or threading.current_thread() is self._thread:
            return False
        if self._thread.is_alive():
            self._thread.join(_SPILL_GRACE_S)
        return not self._thread.is_alive()

    def abandon(self, error: RunleaseError | None = None) -> None:
        """Stop at once; what is left goes to the spool. In a forked child: do nothing any more, and touch nothing.

        Args:
            error: what those are told who wait for a commit or a flush.
        """
        if error is not None:
            self._end_error = error
        if os.getpid() == self._pid and self._thread.is_alive():
            self._stopping = True  # the thread takes in what still waits for it, and leaves it to the disk
        else:
            self._ended = True
            if self._spool is not None and os.getpid() != self._pid:
                self._spool.leave()
        self._ring()

    def _ring(self) -> None:
        if self._ended:
            self._discard()
            self._alarm = -1  # every further call comes here
        else:
            self._alarm = sys.maxsize
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _discard(self) -> None:
        """Empty the queue of a writer that has ended; when threads race the count may fall short."""
        in_child = os.getpid() != self._pid
        with contextlib.suppress(IndexError):
            while True:
                item = self._inbox.popleft()
                if isinstance(item, tuple):
                    self._late += len(item[3])
                elif item.durable is not None and not in_child:  # its lock may be held by nobody there
                    item.durable.settle(self._end_error)

    def _count(self) -> Stats:
        buffer, queued = self._outlet.buffer, 0
        while True:
            try:
                queued = sum(len(item[3]) for item in list(self._inbox) if isinstance(item, tuple))
                break
            except RuntimeError:  # it grew meanwhile
                continue
        logged, lost = buffer.logged + queued + self._late, buffer.lost + self._late
        return Stats(
            logged=logged,
            acknowledged=buffer.acknowledged,
            buffered=max(0, logged - buffer.acknowledged - buffer.spooled - buffer.dropped - buffer.rejected - lost),
            spooled=buffer.spooled,
            dropped=buffer.dropped,
            rejected=buffer.rejected,
            lost=lost,
            throttled_s=self._outlet.throttled_s(self._clock()),
            connected=self._outlet.connected,
            last_error=self._outlet.last_error,
        )

    # The thread.

    def _run(self) -> None:
        stale: RunleaseError | None = None
        try:
            while not (self._ended or self._stopping):
                self._bell.acquire(timeout=self._doze())
                with self._changing():
                    self._outlet.turn(self._inbox, self._replies, self._clock())
        except Stopped as stopped:
            stale = stopped.error
            if self._spool is not None and getattr(stale, "reason", "") == "SESSION_TAKEN":
                self._spool.taken()
        except Exception as error:
            # Whatever the defect is, nothing more would be sent: that must be told, not die with the thread.
            log.exception("the log of %s has ended by a defect", self._name)
            stale = RunleaseError(f"the log of {self._name} has ended by a defect: {error!r}; please report it")
        self._wind_up(stale)
        if stale is not None and self._on_stale is not None:
            self._on_stale(stale)

    def _doze(self) -> float:
        """Set the alarm; returns how long to wait for the bell, in seconds, -1 for as long as it takes."""
        buffer = self._outlet.buffer
        # The first row after a pause starts the timer, the others only matter once they fill a batch.
        batch_rows = self._settings.batch_points // max(1, buffer.row_width)
        self._alarm = min(_ROWS_UNSEEN, batch_rows) if buffer.waiting else 0
        if len(self._inbox) > self._alarm or self._replies:  # they came before the alarm was set
            return 0.0
        next_at = self._outlet.next_at()
        return -1.0 if next_at is None else max(0.0, next_at - self._clock())

    def _wind_up(self, stale: RunleaseError | None) -> None:
        with self._changing():
            if stale is not None:
                self._end_error = stale
                self._outlet.last_error = str(stale)
            self._ended, self._alarm = True, -1  # from here on callers empty the queue
            self._outlet.buffer.take_in(self._inbox)
            stream = self._outlet.end(self._end_error, self._clock())
        if stream is not None:
            part_from(stream)
        if stale is not None and self._spool is not None:
            self._spool.close()  # a sync may bring it in while this process still runs

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._edition += 1
        try:
            yield
        finally:
            self._edition += 1

    def _deliver(self, stream: AppendStream, reply: Reply) -> None:
        self._replies.append((stream, reply))
        self._ring()
