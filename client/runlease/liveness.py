"""Whether the process behind a lease is dead beyond doubt, as far as this machine can tell.

Whoever says so takes the lease over at once, without waiting for it to expire. So every doubt is an answer of no.
"""

from __future__ import annotations

import os

from runlease.holder import Holder, pid_namespace, process_stat


def is_dead(holder: Holder, this: Holder) -> bool:
    """Return whether the holder's process can never run again.

    True only for a process of this boot and PID namespace that is gone, whose PID belongs to a process that started
    at another time, or that is a zombie without any thread left. A stopped process is alive. Always False where the
    system has no ``/proc``, or shows another namespace's.

    Args:
        holder: the process in question.
        this: `this_process()`.
    """
    local = holder.boot_id and holder.pid_namespace and holder.pid > 0 and holder.process_started > 0
    if not local or (holder.boot_id, holder.pid_namespace) != (this.boot_id, this.pid_namespace):
        return False
    if not _sees_own_namespace(this):
        return False
    if _is_gone(holder.pid):
        return True
    stat = process_stat(holder.pid)
    if stat is None:  # ended between two looks, or hidden from other users (`hidepid`)
        return _is_gone(holder.pid)
    if stat.started != holder.process_started:
        return True
    # A first thread that has ended is a zombie while other threads of its process go on. State and number of threads
    # come from one read, so that no thread can be missed that another one is just starting.
    return stat.state in ("Z", "X") and stat.threads <= 1


def _sees_own_namespace(this: Holder) -> bool:
    """Return whether PIDs mean here, and in ``/proc``, what they meant when ``this`` was recorded."""
    try:
        shown_as = os.readlink("/proc/self")
    except OSError:
        return False
    return shown_as == str(os.getpid()) == str(this.pid) and this.pid_namespace == pid_namespace()


def _is_gone(pid: int) -> bool:
    # Not asked of /proc: mounted with `hidepid`, it shows other users' processes as if they were not there.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # another user's; no PID at all
        pass
    return False
