"""A session's spool as its writer uses it: nothing here raises, since no disk may stop a training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from runlease.columns import Row
from runlease.spool.files import SpoolFiles, Where
from runlease.spool.reading import find_sessions
from runlease.spool.records import frame_entry
from runlease.v1 import metrics_pb2, runs_pb2, spool_pb2

#: Seconds for which a disk that refused a record is left alone.
_PAUSE_S = 1.0

log = logging.getLogger("runlease")


class Spool:
    """What goes to disk of one session; what the disk refuses is warned of once, until it takes something again."""

    def __init__(
        self,
        directory: Path,
        header: spool_pb2.SpoolHeader,
        *,
        always: bool = False,
        max_bytes: int = 1 << 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take RUNLEASE_DIR and who writes.

        Args:
            directory: RUNLEASE_DIR.
            header: who writes, and under which grant.
            always: whether each entry, and each call before it returns, is written; else only what finds no room.
            max_bytes: of all entries; what is beyond is not taken.
            clock: seconds, monotonic.
        """
        self.always = always
        self.max_bytes = max_bytes
        self._files = SpoolFiles(directory, header, keeps_last=always)
        self._name = f"{header.run.project}/{header.run.id}"
        self._clock = clock
        self._base: int | None = None
        self._base_noted = bool(not header.fence)
        self._index = 0
        self._is_taken = False
        self._retry_at = -1.0
        self._warned = self._ended = self._closed = self._left = self._damage_told = False
        #: Reentrant, since a signal handler may log in the middle of a call to log.
        self.lock = threading.RLock()

    @property
    def path(self) -> Path:
        """The session's directory; it may not be there."""
        return self._files.path

    def base(self, seq: int) -> None:
        """Tell the seq after which the session's entries begin; what earlier ones of the lease left follows later."""
        if self._base is None:
            self._base = seq
            if self._files.exists:
                self._note_base()
            if seq:
                self._take_over(seq)

    def _take_over(self, seq: int) -> None:
        ours = self._files.header
        try:
            for session in find_sessions(self.path.parent).sessions:
                its = session.header
                same = (its.fence, its.writer) == (ours.fence, ours.writer) and its.session != ours.session
                if same and session.base is not None and session.lock():
                    session.set_taken(seq)
                    session.close()
        except OSError as error:
            log.warning("runlease: what earlier sessions left in %s may not be delivered: %s", self.path.parent, error)

    def taken(self) -> None:
        """Say that another session has taken the writer over."""
        self._is_taken = True

    # Entries.

    @property
    def is_full(self) -> bool:
        """Whether it has reached its bound."""
        return self._files.bytes >= self.max_bytes

    def write(self, entry: metrics_pb2.Entry, place: int, points: int, items_through: int = 0) -> Where | None:
        """Write an entry; None where there is no room for it or the disk does not take it."""
        if self.is_full or not self._note_base():
            return None
        data = frame_entry(entry, place, points, items_through)
        where: list[Where] = []
        if not self._try(lambda: where.append(self._files.append(data))):
            return None
        if items_through:
            with self.lock:
                self._files.covered(items_through)
        return where[0]

    def read(self, where: Where) -> metrics_pb2.Entry | None:
        """Read an entry again; None where it is gone or damaged."""
        try:
            return self._files.read(where)
        except OSError as error:
            if not self._damage_told:  # a directory that is gone holds thousands of entries
                self._damage_told = True
                log.warning(
                    "runlease: an entry of %s in %s cannot be read again, its points are lost (said once; "
                    "run.stats().lost counts them all): %s",
                    self._name,
                    self.path,
                    error,
                )
            return None

    def release(self, where: Where) -> None:
        """Say that an entry is needed no more."""
        self._files.release(where)

    # The journal, on the caller's thread.

    def row(self, row: Row) -> None:
        """Write a row; the caller holds `lock`."""
        step, time_s, keys, values = row
        self._item(
            spool_pb2.SpooledItem(row=spool_pb2.SpooledRow(step=step, time=time_s, keys=keys, values=values)),
        )

    def mark(self, payload: metrics_pb2.Commit | metrics_pb2.Rewind) -> None:
        """Write a commit or rewind; the caller holds `lock`."""
        if isinstance(payload, metrics_pb2.Commit):
            self._item(spool_pb2.SpooledItem(commit=payload))
        else:
            self._item(spool_pb2.SpooledItem(rewind=payload))

    def _item(self, item: spool_pb2.SpooledItem) -> None:
        self._index += 1
        item.index = self._index
        if not (self._ended or self.is_full):
            self._try(lambda: self._files.journal(item))

    # What is said of the session.

    def make(self) -> bool:
        """Make the directory now; returns whether it could be made."""
        return self._try(self._files.make)

    def outcome(self, state: str) -> bool:
        """Keep how the attempt ended; returns whether it is on disk."""
        return self._note(spool_pb2.SpoolRecord(outcome=state))

    def update(self, request: runs_pb2.UpdateRunRequest) -> bool:
        """Keep a change of the run; returns whether it is on disk."""
        request.run.CopyFrom(self._files.header.run)
        return self._note(spool_pb2.SpoolRecord(update=request))

    def acknowledged(self, place: int) -> None:
        """Keep up to which place the coordinator has everything."""
        record = spool_pb2.SpoolAcknowledged(place=place, taken=self._is_taken)
        self._note(spool_pb2.SpoolRecord(acknowledged=record))

    def _note(self, record: spool_pb2.SpoolRecord) -> bool:
        self._retry_at = -1.0  # these are few, and there is no other chance
        return self._note_base() and self._try(lambda: self._files.note(record))

    def _note_base(self) -> bool:
        """Write the base before all else: what is read without one counts as never sent."""
        if self._base is not None and not self._base_noted:
            record = spool_pb2.SpoolRecord(base=spool_pb2.SpoolBase(seq=self._base))
            self._base_noted = self._try(lambda: self._files.note(record))
            return self._base_noted
        return True

    def _try(self, write: Callable[[], object]) -> bool:
        now = self._clock()
        if now < self._retry_at or self._closed:
            return False
        try:
            with self.lock:
                write()
        except OSError as error:
            self._retry_at = now + _PAUSE_S
            if not self._warned:
                self._warned = True
                log.warning(
                    "runlease: metrics of %s cannot be kept on disk in %s: %s; they wait in memory, and beyond that "
                    "the oldest are dropped: make room there, or set RUNLEASE_DIR to another directory",
                    self._name,
                    self.path,
                    error.strerror or error,
                )
            return False
        self._warned = False
        return True

    # The end.

    def end(self, *, delivered: bool) -> None:
        """Take no more entries; remove what is there if everything is delivered."""
        self._ended = True
        if delivered:
            with self.lock:
                self._files.remove()
                self._base_noted = not self._files.header.fence

    def close(self) -> bool:
        """Leave what is there to a sync; returns whether there is something."""
        with self.lock:
            if not self._closed:
                self._left = self._files.exists
            self._ended = self._closed = True
            self._files.close()
        return self._left

    def leave(self) -> None:
        """In a forked child: let go of the files, whose lock is the parent's."""
        self._ended = self._closed = True
        self._files.close()
