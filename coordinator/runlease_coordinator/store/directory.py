"""Own one data directory: its locks, the record of its server, and the private directory of its socket."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from runlease_coordinator.settings import MAX_SOCKET_PATH_BYTES, StartupError

#: How often the socket's directory is made anew when others remove its parent at the same time.
_TRIES = 100


class FileLock:
    """An exclusive `flock` on a file.

    It belongs to the open file description, not to the process: a child that inherits the descriptor
    keeps the lock for as long as it lives, even when this process closed its own copy or was killed.
    The file stays when the lock goes; removing it would let two processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        """Open (and create, mode 0600) the file without locking it.

        Raises:
            StartupError: The file cannot be opened.
        """
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path.parent, error) from error

    def try_acquire(self) -> bool:
        """Lock the file if nobody else has; never wait.

        Raises:
            StartupError: The file system has no locks.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StartupError(
                f"cannot lock {self.path} ({error.strerror}): give --data-dir a directory on a local disk"
            ) from error
        return True

    def read(self) -> str:
        """Return the file's text."""
        return os.pread(self.fd, 4096, 0).decode(errors="replace")

    def write(self, text: str) -> None:
        """Replace the file's text."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Close this process's descriptor; the lock is free once every inherited one is closed too."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def lock_data_dir(data_dir: Path) -> FileLock:
    """Create the directory (mode 0700) where needed and become its only coordinator.

    Raises:
        StartupError: It is no directory, cannot be written, or another coordinator uses it (names its pid).
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    lock = FileLock(data_dir / "coordinator.lock")
    try:
        if not lock.try_acquire():
            holder = lock.read().strip() or "pid unknown"
            raise StartupError(
                f"data directory {data_dir} is used by another coordinator ({holder}); "
                "stop it or give --data-dir another directory"
            )
        lock.write(f"pid {os.getpid()}, since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
    except OSError as error:
        lock.close()
        raise _unusable(data_dir, error) from error
    except StartupError:
        lock.close()
        raise
    return lock


def _unusable(data_dir: Path, error: OSError) -> StartupError:
    reason = "it is not a directory" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
    return StartupError(
        f"cannot use data directory {data_dir}: {reason}; give --data-dir a directory that you can write"
    )


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The last server that was started on a data directory, for whoever must end it."""

    pid: int
    """Its process ID, also that of its session and process group."""

    started: str
    """When that process started, as `process_started` tells: a pid alone may have been given anew."""

    socket: str
    """Path of its Unix socket, which may not be the one that a successor would choose."""

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self)) + "\n")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> ServerRecord | None:
        """Return the record, or None where there is none that can be read."""
        try:
            found = json.loads(path.read_text())
            record = cls(int(found["pid"]), str(found["started"]), str(found["socket"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if record.pid > 1 and record.started else None

    def is_running(self) -> bool:
        """Tell whether that very process lives, not another with its number."""
        return process_started(self.pid) == self.started


def process_started(pid: int) -> str:
    """Return an opaque text that says when a process started, or "" if it is gone or cannot be seen."""
    if os.path.exists("/proc/self/stat"):
        with suppress(OSError, IndexError):
            # The name in parentheses may hold anything; field 22 is the start in clock ticks since boot.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    return ""


def socket_path(data_dir: Path, environ: Mapping[str, str]) -> Path:
    """Return where the socket of a (resolved) data directory goes; creates nothing.

    Not into the data directory: that may be on a network file system, which takes no sockets, and its
    path may exceed the system's limit for them.
    """
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime):
        base = Path(runtime).absolute() / "runlease"
    else:
        base = Path(tempfile.gettempdir()).absolute() / f"runlease-{os.geteuid()}"
    return base / name / "store.sock"


def prepare_socket_dir(socket: Path) -> None:
    """Create the socket's directory and its parent, both of mode 0700 and our own.

    Raises:
        StartupError: The path is too long, or a directory belongs to somebody else.
    """
    length = len(os.fsencode(socket))
    if length > MAX_SOCKET_PATH_BYTES:
        raise StartupError(
            f"the store's socket path {socket} has {length} bytes, the system takes {MAX_SOCKET_PATH_BYTES}: "
            "set XDG_RUNTIME_DIR or TMPDIR to a directory with a shorter path"
        )
    for tries_left in reversed(range(_TRIES)):
        try:
            make_private(socket.parent.parent)
            make_private(socket.parent)
            return
        except StartupError as error:
            # The last other coordinator of this user, as it stopped, has just removed the parent that all share.
            if not (tries_left and isinstance(error.__cause__, FileNotFoundError)):
                raise


def remove_socket_dir(socket: Path) -> None:
    """Remove the socket's directory, and the parent too unless another store has its own there."""
    with suppress(OSError):
        socket.parent.rmdir()
        socket.parent.parent.rmdir()


def make_private(directory: Path) -> None:
    """Create a directory that only we can enter, or make sure that it is one.

    Raises:
        StartupError: It is a symbolic link, no directory, or belongs to another user.
    """
    remedy = "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()  # not stat: somebody else's link in /tmp must not be followed
        if not stat.S_ISDIR(found.st_mode):
            raise StartupError(f"{directory}, meant for the store's socket, is not a directory: {remedy}")
        if found.st_uid != os.geteuid():
            raise StartupError(
                f"{directory}, meant for the store's socket, belongs to user {found.st_uid}, not to you: {remedy}"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        raise StartupError(
            f"cannot make {directory} for the store's socket: {error.strerror}; "
            "set XDG_RUNTIME_DIR or TMPDIR to a directory that you can write"
        ) from error
