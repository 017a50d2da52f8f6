"""The directory's memory of its runs: ``.runlease/resume.json``.

It names, for each project, script and array index that ran in a directory, the key under which the coordinator
finds the run, so that a new job in the same directory goes on with it. The file is a convenience: whatever is wrong
with it is said once and treated as if it were not there. A training never fails because of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: without a lock the last of two writers at the same moment wins
    fcntl = None  # type: ignore[assignment]  # None stands for: not on this system

log = logging.getLogger("runlease")

DIRECTORY = ".runlease"
FILE = "resume.json"
#: About 2 MB. The oldest entries go first; the coordinator forgets keys that nobody used for 30 days anyway.
MAX_ENTRIES = 10_000
#: A file beyond this is not ours, and is not read into memory.
_MAX_BYTES = 16 << 20
#: How long to wait for another process that writes the file, in seconds; it may be stopped, or its machine gone.
_LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.02

_KEY = re.compile(r"file:[0-9a-f]{16,64}")
_ABOUT = "runlease: which run goes on in this directory. Delete it to start anew; do not commit it."


def generate_key() -> str:
    """Return a new key, ``file:`` and 32 hexadecimal digits of the operating system's randomness."""
    return f"file:{secrets.token_hex(16)}"


class ResumeFile:
    """The resume file of one directory; no method raises for what is wrong with the file or the directory."""

    def __init__(self, directory: Path, *, lock_wait_s: float = _LOCK_WAIT_S) -> None:
        """Name the directory of the job; nothing is read or made yet."""
        self._folder = Path(directory) / DIRECTORY
        self.path = self._folder / FILE
        self._lock_wait_s = lock_wait_s
        self._warned = False

    def key(self, project: str, script: str, array_index: str) -> str | None:
        """Return the key remembered for a project, script and array index, or None.

        Args:
            project: the run's project.
            script: what `job.script_of` returns.
            array_index: what `job.array_index` returns; '' outside of an array.
        """
        try:
            entries = self._read()
        except OSError as error:
            self._warn(
                f"cannot read {self.path}: {error.strerror or error}; runs of this directory are not resumed by it"
            )
            return None
        entry = _find(entries, (project, script, array_index))
        return None if entry is None else str(entry["key"])

    def remember(self, project: str, script: str, array_index: str, key: str, run_id: str) -> bool:
        """Remember the key, and the run's ID for people; entries of others are kept.

        Returns:
            Whether the file now says so, for good.
        """
        identity = (project, script, array_index)
        try:
            # A resume changes nothing, so it needs no lock and works where the directory is read-only by now.
            if _says(self._read(), identity, key, run_id):
                return True
            self._make_folder()
            with self._locked():
                entries = self._read()  # another process may have written meanwhile
                kept = [entry for entry in entries if _identity_of(entry) != identity]
                self._replace([*kept, dict(zip(_FIELDS, identity, strict=True)) | {"key": key, "run": run_id}])
        except OSError as error:
            self._warn(
                f"cannot write {self.path}: {error.strerror or error}; the next job in this directory "
                'will not find this run by it: give id= or auto_key= to resume="auto"'
            )
            return False
        return True

    def _read(self) -> list[dict[str, Any]]:
        """Return the entries that make sense.

        Raises:
            OSError: the file is there and cannot be read.
        """
        try:
            # Not to wait for ever where somebody put a pipe in its place.
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "it is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                text = file.read(_MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(text) > _MAX_BYTES:
            self._warn(f"{self.path} has more than {_MAX_BYTES >> 20} MiB and is ignored; it is written anew")
            return []
        return self._parse(text)

    def _parse(self, text: bytes) -> list[dict[str, Any]]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
            self._warn(f"{self.path} is damaged and is ignored ({_brief(error)}); it is written anew")
            return []
        runs = content.get("runs") if isinstance(content, dict) else None
        if not isinstance(runs, list):
            self._warn(f"{self.path} is damaged and is ignored (no list of runs); it is written anew")
            return []
        entries = [entry for entry in runs if _is_entry(entry)]
        if len(entries) < len(runs):
            self._warn(f"{self.path}: {len(runs) - len(entries)} of {len(runs)} entries are damaged and ignored")
        return entries

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Committed to a repository, the file would make everybody's clone go on with the same run.
        with contextlib.suppress(OSError), open(self._folder / ".gitignore", "x", encoding="utf-8") as file:
            file.write("*\n")

    def _replace(self, entries: list[dict[str, Any]]) -> None:
        content = {"about": _ABOUT, "runs": entries[-MAX_ENTRIES:]}
        # A name of its own, since without a lock two may write at once; opened by hand, to follow the umask.
        draft = self._folder / f"{FILE}.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        try:
            with os.fdopen(os.open(draft, flags, 0o666), "w", encoding="ascii") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path)
        except BaseException:  # an interrupt, too, leaves nothing half-made
            with contextlib.suppress(OSError):
                draft.unlink()
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing; go on without after a while, or where the file system has no locks."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self._folder / "resume.lock", flags, 0o666)
        try:
            locked = self._lock(descriptor)
            try:
                yield
            finally:
                if locked:  # by name, since a child forked meanwhile has the descriptor open as well
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> bool:
        deadline = time.monotonic() + self._lock_wait_s
        while fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_LOCK_POLL_S)
            except OSError:  # a network file system without locks
                return False
            else:
                return True
        return False

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("runlease: %s", problem)


_FIELDS = ("project", "script", "array_index")


def _identity_of(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(entry[field] for field in _FIELDS)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(field), str) for field in _FIELDS)
        and isinstance(entry.get("key"), str)
        and _KEY.fullmatch(entry["key"]) is not None
    )


def _find(entries: list[dict[str, Any]], identity: tuple[str, ...]) -> dict[str, Any] | None:
    return next((entry for entry in reversed(entries) if _identity_of(entry) == identity), None)


def _says(entries: list[dict[str, Any]], identity: tuple[str, ...], key: str, run_id: str) -> bool:
    entry = _find(entries, identity)
    return entry is not None and entry["key"] == key and entry.get("run") == run_id


def _brief(error: Exception) -> str:
    return str(error)[:80] or type(error).__name__
