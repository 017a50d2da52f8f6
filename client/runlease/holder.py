"""Who holds, held or asks for a lease: the identity of a process."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from runlease.version import __version__


@dataclass(frozen=True, slots=True)
class Holder:
    """The process behind a lease.

    ``boot_id``, ``pid_namespace`` and ``process_started`` (clock ticks since boot) tell two processes apart that
    had the same PID; they are empty where the system does not show them.
    """

    host: str = ""
    pid: int = 0
    user: str = ""
    job_id: str = ""
    group: str = ""
    sdk_version: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    process_started: int = 0

    def __str__(self) -> str:
        """Return ``host:pid`` and, where known, the user and the job."""
        notes = [note for note in (self.user and f"user {self.user}", self.job_id and f"job {self.job_id}") if note]
        return f"{self.host or '?'}:{self.pid}" + (f" ({', '.join(notes)})" if notes else "")


def this_process() -> Holder:
    """Return the identity of the calling process."""
    return replace(_this_machine(), pid=os.getpid(), process_started=_process_started())


@cache
def _this_machine() -> Holder:
    return Holder(
        host=socket.gethostname(),
        user=_user(),
        job_id=os.environ.get("SLURM_JOB_ID", ""),
        sdk_version=__version__,
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_link("/proc/self/ns/pid"),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's UID without a passwd entry
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _process_started() -> int:
    # proc(5): field 22, counted behind the command's closing parenthesis, which may itself contain spaces.
    fields = _read("/proc/self/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 0
