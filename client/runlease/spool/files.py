"""The files of one session's spool, as its own process writes them.

Nothing is made before the first record. What the operating system refuses is an OSError to the caller, and leaves the
files as they were before the call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from runlease.ids import canonical_id
from runlease.spool.records import VERSION, frame, unframe
from runlease.v1 import metrics_pb2, spool_pb2

try:
    import fcntl
except ImportError:  # Windows: nothing tells a live session from one that has ended
    fcntl = None  # type: ignore[assignment]  # None stands for: not on this system

#: The folder of all spools in RUNLEASE_DIR.
FOLDER = "spool"
SESSION, ENTRIES, JOURNAL = "session", "entries", "journal"
#: A file of entries, or of the journal, that has reached this size is followed by the next, in bytes.
ENTRIES_BYTES, JOURNAL_BYTES = 8 << 20, 1 << 20
#: How often to try to make a directory whose parents another process removes in the same moment.
_TRIES = 10


def try_lock(fd: int) -> bool:
    """Lock an open file for this open file description; returns whether nobody else has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def session_path(directory: Path, header: spool_pb2.SpoolHeader) -> Path:
    """Return where the spool of a session lies, below RUNLEASE_DIR."""
    name = f"{int(header.created * 1e6):016d}-{header.session}"
    return directory / FOLDER / header.run.project / canonical_id(header.run.id) / name


@dataclass(frozen=True, slots=True)
class Where:
    """Where a record stands: file, offset and length in bytes."""

    number: int
    offset: int
    length: int


class _Appended:
    """A row of numbered files that only grow at their end."""

    def __init__(self, folder: Path, kind: str, max_bytes: int) -> None:
        self._folder, self._kind, self._max_bytes = folder, kind, max_bytes
        self._fd: int | None = None
        self.number, self._size = 0, 0

    def path(self, number: int) -> Path:
        return self._folder / f"{self._kind}-{number:06d}"

    def append(self, data: bytes) -> Where:
        """Write a record with one call of the system, or leave no trace of it."""
        if self._fd is not None and self._size + len(data) > self._max_bytes and self._size:
            self.close()
        if self._fd is None:
            self._open()
        assert self._fd is not None
        offset = self._size
        try:
            written = os.write(self._fd, data)
            while written < len(data):  # a disk that is nearly full takes a part; the next call says why
                written += os.write(self._fd, data[written:])
        except OSError:
            self._undo(offset)
            raise
        self._size += len(data)
        return Where(self.number, offset, len(data))

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_BINARY", 0)
        self._fd = os.open(self.path(self.number + 1), flags, 0o600)
        self.number += 1
        self._size = 0

    def _undo(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)  # type: ignore[arg-type]  # a descriptor wherever there was something to undo
        except OSError:  # what follows a torn record would not be read
            self.close()

    def close(self) -> None:
        """Let the next record begin a new file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class SpoolFiles:
    """One session's spool: entries that can be read again and released, a journal, and what is said of both."""

    def __init__(self, directory: Path, header: spool_pb2.SpoolHeader, *, keeps_last: bool = False) -> None:
        """Take RUNLEASE_DIR and who writes; nothing is made yet.

        Args:
            directory: RUNLEASE_DIR.
            header: who writes, and under which grant.
            keeps_last: leave the last entry on disk even if it is released. With a journal it must stay: it tells
                which items are in entries, and what place the next entry has.
        """
        self._keeps_last = keeps_last
        header.version = VERSION
        header.canonical_id = canonical_id(header.run.id)
        self.header = header
        self.path = session_path(directory, header)
        self._session_fd: int | None = None
        self._entries = _Appended(self.path, ENTRIES, ENTRIES_BYTES)
        self._journal = _Appended(self.path, JOURNAL, JOURNAL_BYTES)
        #: Of each file of entries: how many are not released, and its bytes.
        self._live: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        #: Of each file of the journal: its last index, and its bytes.
        self._journal_last: dict[int, int] = {}
        self._journal_sizes: dict[int, int] = {}
        #: Bytes of all entries, and of the journal.
        self.bytes = 0

    @property
    def exists(self) -> bool:
        """Whether something was written, and not removed."""
        return self._session_fd is not None

    def make(self) -> None:
        """Make the directory and its first record, where it is not there yet."""
        if self._session_fd is not None:
            return
        for attempt in range(_TRIES):
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700)
                break
            except FileExistsError:  # a try before this one came so far
                break
            except FileNotFoundError:  # another session has just ended and removed the parents
                if attempt == _TRIES - 1:
                    raise
                time.sleep(0.001)
        # Locked before it bears its name: a sync that finds it finds it locked.
        new = self.path / f"{SESSION}.new"
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            try_lock(fd)
            data = frame(spool_pb2.SpoolRecord(header=self.header))
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if fcntl is None:  # Windows renames no open file
                os.close(fd)
            os.replace(new, self.path / SESSION)
            if fcntl is None:
                fd = os.open(self.path / SESSION, os.O_RDWR | os.O_APPEND)
        except BaseException:  # an interrupt, too, closes it
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        self._session_fd = fd

    def note(self, record: spool_pb2.SpoolRecord) -> None:
        """Write a record that is neither entry nor item: base, acknowledged, outcome, update."""
        self.make()
        assert self._session_fd is not None
        size = os.fstat(self._session_fd).st_size
        data = frame(record)
        try:
            if os.write(self._session_fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._session_fd, size)
            raise

    # Entries.

    def append(self, data: bytes) -> Where:
        """Write an entry (`records.frame_entry`); returns where it stands."""
        self.make()
        number = self._entries.number
        spent = self._live.get(number) == 0  # kept as the last one; a new file can take its place
        if spent:
            self._entries.close()
        where = self._entries.append(data)
        self._live[where.number] = self._live.get(where.number, 0) + 1
        self._sizes[where.number] = self._sizes.get(where.number, 0) + where.length
        self.bytes += where.length
        if spent:
            self._forget(number)
        return where

    def read(self, where: Where) -> metrics_pb2.Entry:
        """Read an entry again.

        Raises:
            OSError: it cannot be read, or is not what was written.
        """
        with open(self._entries.path(where.number), "rb") as file:
            file.seek(where.offset)
            record = unframe(file.read(where.length))
        if record is None or not record.HasField("entry"):
            raise OSError(errno.EIO, f"a record of {where.length} bytes at {where.offset} is damaged", str(file.name))
        return metrics_pb2.Entry.FromString(record.entry.entry)

    def release(self, where: Where) -> None:
        """Say that an entry is needed no more; the last one of a file takes the file with it."""
        left = self._live[where.number] = self._live[where.number] - 1
        is_current = where.number == self._entries.number
        if left or (is_current and self._keeps_last):
            return
        if is_current:
            self._entries.close()
        self._forget(where.number)

    def _forget(self, number: int) -> None:
        del self._live[number]
        self.bytes -= self._sizes.pop(number)
        with contextlib.suppress(OSError):  # it is read again at worst, and found to be delivered
            self._entries.path(number).unlink()

    # The journal.

    def journal(self, item: spool_pb2.SpooledItem) -> None:
        """Write an item as it was logged."""
        self.make()
        where = self._journal.append(frame(spool_pb2.SpoolRecord(item=item)))
        self._journal_last[where.number] = item.index
        self._journal_sizes[where.number] = where.offset + where.length
        self.bytes += where.length

    def covered(self, index: int) -> None:
        """Remove files of the journal whose items up to ``index`` are all in entries."""
        for number in [number for number, last in self._journal_last.items() if last <= index]:
            if number != self._journal.number:  # others write that one just now
                del self._journal_last[number]
                self.bytes -= self._journal_sizes.pop(number)
                with contextlib.suppress(OSError):
                    self._journal.path(number).unlink()

    # The end.

    def close(self) -> None:
        """Keep what is there for a sync, which may begin at once."""
        self._entries.close()
        self._journal.close()
        if self._session_fd is not None:
            os.close(self._session_fd)
            self._session_fd = None

    def remove(self) -> None:
        """Remove all of it."""
        exists = self.exists
        if fcntl is None:  # Windows removes no open file
            self.close()
        if exists:
            remove_session(self.path)
        self.close()
        for counts in (self._live, self._sizes, self._journal_last, self._journal_sizes):
            counts.clear()
        self.bytes = 0


def remove_session(path: Path) -> None:
    """Remove the spool of a session, and the folders of its run and project if they are empty.

    The file `session` goes last: killed before, a sync finds what is left. What somebody else has removed is no error.
    """
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(path)
    for name in sorted(names, key=lambda name: name == SESSION):
        with contextlib.suppress(OSError):
            (path / name).unlink()
    shutil.rmtree(path, ignore_errors=True)
    for parent in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()
