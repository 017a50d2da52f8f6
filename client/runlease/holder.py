"""Who holds, held or asks for a lease: the identity of a process."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

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
    stat = process_stat(os.getpid())
    # The namespace is read each time: a child of a fork may live in another one than the parent that read it first.
    return replace(
        _this_machine(),
        pid=os.getpid(),
        pid_namespace=pid_namespace(),
        process_started=stat.started if stat else 0,
    )


class ProcessStat(NamedTuple):
    """What proc(5) tells of a process at one moment."""

    state: str
    """One letter: ``Z`` a zombie, ``X`` dead, any other may run again."""

    threads: int
    """Threads that are left, counting a first thread that has ended already."""

    started: int
    """Clock ticks since boot."""


def process_stat(pid: int) -> ProcessStat | None:
    """Return what the system shows of a process, read at once; None where it shows nothing."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Fields 3, 20 and 22, counted behind the command's closing parenthesis, which may itself contain spaces.
    fields = text.rpartition(b")")[2].split()
    return ProcessStat(fields[0].decode("latin-1"), int(fields[17]), int(fields[19])) if len(fields) > 19 else None


def pid_namespace() -> str:
    """Return the PID namespace that this process lives in, such as ``pid:[4026531836]``; '' where there is none."""
    return _link("/proc/self/ns/pid")


@cache
def _this_machine() -> Holder:
    return Holder(
        host=socket.gethostname(),
        user=_user(),
        job_id=os.environ.get("SLURM_JOB_ID", ""),
        sdk_version=__version__,
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
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
